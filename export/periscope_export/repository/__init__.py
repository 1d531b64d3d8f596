"""Model repositories: tensors on the wire, profiles, Triton's configs."""
