"""What people would use otherwise: each a script that runs in its own virtual environment, spoken to line by line."""
