"""Starts the embedded Triton on a model repository."""
