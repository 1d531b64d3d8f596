"""Fidelity: samples, how close graphs are to the towers, and whether that is close enough."""
