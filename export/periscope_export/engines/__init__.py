"""Engines: what runs the graphs, built and measured."""
