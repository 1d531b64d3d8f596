"""Recipes: what a retriever is, as data; what a checkpoint and the user say over it."""
