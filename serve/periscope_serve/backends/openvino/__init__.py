"""A Python stand-in for Triton's C++ openvino backend, so that one repository serves here and in NVIDIA's image."""
