"""Subcommands of `periscope`."""
