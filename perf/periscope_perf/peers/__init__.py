"""The alternatives to Periscope: each a script that runs in its own virtual environment, spoken to line by line."""
