"""Checks of a retriever on the GPU of this machine."""
