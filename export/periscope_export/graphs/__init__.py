"""Graphs: modules to ONNX, their precision and quantisation, their form for an engine."""
