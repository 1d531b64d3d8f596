"""Checkpoints: finding and lazily reading what was published, adapters merged, names without wrappers."""
