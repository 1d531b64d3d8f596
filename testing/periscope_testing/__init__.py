"""The systems that are served: random checkpoints in published layouts, and what the published code makes of items."""
