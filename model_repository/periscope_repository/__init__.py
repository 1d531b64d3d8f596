"""The wiring: one folder per step, a config.pbtxt template and, for Python steps, a model.py."""
