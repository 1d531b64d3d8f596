"""A system on a running server, beside its published code: both take the same items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from e2e.pages import encode, infer
from periscope_client import Embeddings, Retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_export.recipes.schema import Recipe
from periscope_serve.server import Server
from periscope_testing.reference import Floats, Item, Reference, Vectors
from periscope_testing.system import System

Tensors = dict[str, NDArray[Any]]


@dataclass
class Served:
    """A system, its exported repository, and the clients of the server that it runs on."""

    system: System
    checkpoint: Path
    repository: Path
    retriever: Retriever
    triton: InferenceServerClient
    server: Server

    @cached_property
    def reference(self) -> Reference:
        """The published code."""
        return self.system.reference(self.checkpoint)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that it was exported with."""
        return recipe_of(self.system)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Those of "late" and "dense" that it gives."""
        return tuple(name for name in ("late", "dense") if getattr(self.recipe.outputs, name))

    def embed(self, item: Item) -> Vectors:
        """Embed an item through the client, in a request of its own."""
        return self.vectors(self.embeddings([item]))[0]

    def embeddings(self, items: list[Item], **options: Any) -> Embeddings:
        """Embed items of one kind, role, instruction, task and width in one call."""
        first = items[0]
        options |= {name: getattr(first, name) for name in ("role", "instruction", "task", "dimensions")}
        if first.video is None and first.image is None:
            return self.retriever.embed_text([item.text or "" for item in items], **options)
        texts = None if first.text is None else [item.text for item in items]
        if first.video is None:
            pages = [encode(item.image) for item in items if item.image is not None]
            return self.retriever.embed_image(pages, texts, **options)
        videos = [[encode(frame) for frame in item.video or ()] for item in items]
        return self.retriever.embed_video(videos, texts, **options)

    def vectors(self, found: Embeddings) -> list[Vectors]:
        """Return the vectors of each item."""
        late = found.late_vectors() if "late" in self.outputs else [None] * len(found)
        dense = list(found.dense_vectors()) if "dense" in self.outputs else [None] * len(found)
        return [Vectors(*pair) for pair in zip(late, dense, strict=True)]

    def step(self, step: str, inputs: Tensors) -> Tensors:
        """Run a step, or an ensemble, with arrays."""
        return infer(self.triton, f"{self.system.name}_{step}", inputs)

    def tensors(self, items: list[Item]) -> tuple[str, Tensors]:
        """Return the path of items of one kind, and the input tensors of one request that holds them all."""
        first = items[0]
        texts = {"TEXT": column([(item.text or "").encode() for item in items])} if first.text else {}
        roles = {"ROLE": column([item.role.encode() for item in items])}
        if first.task is not None:
            roles["TASK"] = column([(item.task or "").encode() for item in items])
        if first.video is not None:
            frames = [[encode(frame) for frame in item.video or ()] for item in items]
            return "video", {"VIDEO": np.array(frames, dtype=object), **texts, **roles}
        if first.image is not None:
            pages = [encode(item.image) for item in items if item.image is not None]
            return "image", {"IMAGE": column(pages), **texts, **roles}
        return "text", {**texts, **roles}

    def rows(self, items: list[Item]) -> list[Vectors]:
        """Embed items of one kind in one request, so that they are padded to one length."""
        path, inputs = self.tensors(items)
        outputs = self.step(f"embed_{path}", inputs)
        late = [None] * len(items)
        if "late" in outputs:
            late = [row[mask > 0] for row, mask in zip(outputs["late"], outputs["late_mask"], strict=True)]
        dense = list(outputs["dense"]) if "dense" in outputs else [None] * len(items)
        return [Vectors(*pair) for pair in zip(late, dense, strict=True)]

    def prepared(self, item: Item) -> Tensors:
        """Return the tensors of the preparation step, as the only row of a request."""
        path, inputs = self.tensors([item])
        return self.step(f"preprocess_{path}", inputs)


def recipe_of(system: System) -> Recipe:
    """Return the recipe that a system is exported with, what is set for it included."""
    return with_settings(load_recipe(system.recipe), system.settings)


def column(values: list[bytes]) -> NDArray[Any]:
    """Values as rows of one request, [B, 1]."""
    return np.array([[value] for value in values], dtype=object)


def distance(found: Vectors, wanted: Vectors) -> float:
    """Return the largest difference of two items' vectors, infinite where one has other vectors than the other."""
    return max(_distance(one, other) for one, other in zip(found, wanted, strict=True))


def _distance(one: Floats | None, other: Floats | None) -> float:
    if one is None or other is None:
        return 0 if one is None else float("inf")
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")
