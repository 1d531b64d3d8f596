"""Load scenarios and comparisons with peers."""
