"""Parts that retrievers are made of: layers, blocks, heads, and how they are filled with weights."""
