"""Triton backends that `periscope serve` brings along."""
