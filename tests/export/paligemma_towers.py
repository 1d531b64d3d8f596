"""PaliGemma's towers and the late head over a ColPali checkpoint, and the tensors that they take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from periscope_export.graphs.graph import module_runner
from periscope_export.graphs.precision import at
from periscope_export.models.weights import load_step
from periscope_export.published import open_retriever
from periscope_testing.colpali.reference import ColPaliReference
from periscope_testing.reference import Floats

Modules = dict[str, nn.Module]
Tensors = dict[str, NDArray[Any]]


class Towers:
    def __init__(self, checkpoint: Path, **settings: str) -> None:
        retriever = open_retriever(str(checkpoint), "colpali", settings=settings)
        self.steps = {step.name: at(step, "fp32") for step in retriever.steps}
        self.modules: Modules = {
            name: load_step(step, retriever.checkpoint.weights) for name, step in self.steps.items()
        }

    def run(self, name: str, tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        (found,) = module_runner(self.steps[name], self.modules[name])(name, tensors).values()
        return found

    def vectors(self, tensors: Tensors) -> list[Floats]:
        """Late vectors of each row, padding removed."""
        if "patches" in tensors:
            tensors = {**tensors, "visual_tokens": self.run("vision_encoder", tensors)}
        states = self.run("language_model", tensors)
        late = self.run("late_head", {"hidden_states": states, "late_mask": tensors["attention_mask"]})
        return [row[mask > 0] for row, mask in zip(late, tensors["attention_mask"], strict=True)]


def page(seed: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (150, 220, 3), dtype=np.uint8))


def patches_of(reference: ColPaliReference, pages: list[Image.Image]) -> NDArray[np.uint8]:
    """The published pixels before they are rescaled, cut into patches: channel, row, column."""
    processor = reference.processor.image_processor
    pixels = np.stack(processor(pages, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"])
    rows, _, side, _ = pixels.shape
    cut = pixels.astype(np.uint8).reshape(rows, 3, side // 14, 14, side // 14, 14)
    return np.ascontiguousarray(cut.transpose(0, 2, 4, 1, 3, 5)).reshape(rows, -1, 588)


def text_tensors(reference: ColPaliReference, texts: list[str], width: int) -> Tensors:
    inputs = reference.query_inputs(texts)
    return {
        **_tokens(inputs),
        "visual_tokens": np.zeros((len(texts), 0, width), np.float32),
    }


def page_tensors(reference: ColPaliReference, pages: list[Image.Image]) -> Tensors:
    inputs = reference.image_inputs(pages)
    return {
        **_tokens(inputs),
        "patches": patches_of(reference, pages)[:, None],
    }


def _tokens(inputs: Mapping[str, Any]) -> Tensors:
    ids_BT = inputs["input_ids"].numpy().astype(np.int32)
    rows, tokens = ids_BT.shape
    return {
        "input_ids": ids_BT,
        "position_ids": np.tile(np.arange(tokens, dtype=np.int32), (rows, 3, 1)),
        "attention_mask": inputs["attention_mask"].numpy().astype(np.int32),
    }


def difference(found: list[Floats], wanted: list[Floats]) -> float:
    assert [row.shape for row in found] == [row.shape for row in wanted]
    return max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True))
