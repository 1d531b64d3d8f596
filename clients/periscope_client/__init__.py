"""Clients of a served retriever."""
