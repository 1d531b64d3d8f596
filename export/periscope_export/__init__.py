"""Turns a published checkpoint into a Triton model repository. Needs torch."""
