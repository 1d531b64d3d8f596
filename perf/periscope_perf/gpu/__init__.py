"""What the GPU of this machine makes of a retriever."""
