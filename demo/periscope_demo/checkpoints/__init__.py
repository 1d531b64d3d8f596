"""Random checkpoints in published layouts, a module a family."""
