"""A transport without a wire, for answers that no healthy server gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_client import RequestError, UnknownModel

Tensors = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


def config(fingerprint: str | None = "f", outputs: tuple[str, ...] = ("late", "late_mask")) -> dict[str, Any]:
    """The configuration of an embedding model, as Triton's JSON."""
    parameters = {"recipe": {"string_value": "r"}}
    if fingerprint is not None:
        parameters["fingerprint"] = {"string_value": fingerprint}
    return {
        "parameters": parameters,
        "output": [{"name": name, "dims": ["-1", "2"]} for name in outputs],
        "ensemble_scheduling": {},
    }


def answer() -> Outputs:
    """Two tokens and a row of padding."""
    return {
        "late": np.array([[[1, 0], [0, 1], [0, 0]]], np.float32),
        "late_mask": np.array([[1, 1, 0]], np.int32),
    }


class FakeTransport:
    """Answers with what its fields say; an error there is raised."""

    def __init__(self) -> None:
        self.description: dict[str, Any] | RequestError = config()
        self.others: dict[str, dict[str, Any]] = {}  # of models beside those for texts and images
        self.reply: Outputs | RequestError | Callable[[str, Tensors], Outputs] = answer()
        self.index: list[str] | RequestError = []
        self.closed = False
        self.configs_read = 0
        self.asked: list[tuple[str, ...]] = []

    async def infer(self, model: str, inputs: Tensors, outputs: Sequence[str], request_id: str = "") -> Outputs:
        self.asked.append(tuple(outputs))
        if callable(self.reply):
            return self.reply(model, inputs)
        if isinstance(self.reply, RequestError):
            raise self.reply
        return self.reply

    async def config(self, model: str) -> dict[str, Any]:
        self.configs_read += 1
        if isinstance(self.description, RequestError):
            raise self.description
        if model.endswith(("_embed_text", "_embed_image")):
            return self.description
        if model not in self.others:
            raise UnknownModel("no")
        return self.others[model]

    async def models(self) -> list[str]:
        if isinstance(self.index, RequestError):
            raise self.index
        return self.index

    async def close(self) -> None:
        self.closed = True
