"""Weights of which there is nothing but names and shapes, and those that the published classes have for a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from periscope_export.checkpoint.reading import TensorInfo, Weights


class Shapes(Weights):
    """Canonical names and shapes of weights that nobody has."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], canonical: Callable[[str], str]) -> None:
        self.shapes = {canonical(name): tuple(shape) for name, shape in shapes.items()}
        self._stored, self._canonical = {canonical(name): name for name in shapes}, canonical
        self._made, self._adapters = {}, ()

    def keys(self) -> Any:
        return sorted(self.shapes)

    def info(self, name: str) -> TensorInfo:
        return TensorInfo(self.shapes[name], torch.bfloat16)


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the class that transformers has for a config, which it reads with its own defaults."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    read = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(read)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
