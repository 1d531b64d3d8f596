"""torchvision beside the CPU build of torch, for peers' scripts."""

from __future__ import annotations


def declare_torchvision_operators() -> None:
    """Make torchvision importable beside the CPU build of torch, which lacks the operators that it refers to."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_operators"] = library  # a library that is collected takes its operators with it
