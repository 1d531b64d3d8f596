"""The subcommands of `periscope` that the light client carries."""
