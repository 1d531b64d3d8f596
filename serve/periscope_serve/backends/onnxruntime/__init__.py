"""A Python stand-in for Triton's C++ onnxruntime backend, so that one repository serves here and in NVIDIA's image."""
