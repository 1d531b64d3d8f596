"""The demonstration: a checkpoint, a document, and the whole path between them."""
