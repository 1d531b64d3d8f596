"""Rows of Qwen3-VL: the published processor's inputs as the towers take them, and what both make of them.

B rows, G images of a row, P patches of the largest, V visual tokens, T tokens, H hidden width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from periscope_export.checkpoint.reading import open_checkpoint
from periscope_export.families.qwen3_vl import FAMILY
from periscope_export.graphs.graph import module_runner
from periscope_export.models.steps import Step
from periscope_export.models.weights import check_weights, load_step
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_runtime.completion import completed
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding
from periscope_testing.qwen3_vl.reference import EmbeddingReference

Tensors = dict[str, NDArray[Any]]


class Built(NamedTuple):
    """Towers and their published counterpart."""

    vision_step: Step
    language_step: Step
    vision: Any
    language: Any
    reference: EmbeddingReference

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return visual tokens and states of prepared tensors."""
        found = {}
        if "patches" in tensors:
            found = module_runner(self.vision_step, self.vision)("", tensors)
        inputs = with_visual_tokens(self.language_step, {**tensors, **found})
        return {**found, **module_runner(self.language_step, self.language)("", inputs)}


def with_visual_tokens(step: Step, tensors: Tensors) -> Tensors:
    """Add the visual tokens that a language model reads beside texts."""
    return completed(tensors, {spec.name: spec.wanted for spec in step.inputs}, 0)


def build(folder: Path, sizes: Qwen3VLSizes | None = None) -> Built:
    folder = make_qwen3_vl_embedding(folder, sizes, seed=7)
    return load(folder, EmbeddingReference(folder))


def load(folder: Path, reference: EmbeddingReference, **settings: bool) -> Built:
    checkpoint = open_checkpoint(str(folder), None, canonical=FAMILY.canonical, revision=None)
    recipe = with_settings(load_recipe("qwen3_vl_embedding"), settings)
    vision_step, language_step = FAMILY.steps(checkpoint.config, recipe)
    FAMILY.check(recipe)
    check_weights((vision_step, language_step), checkpoint.weights, FAMILY.unused)
    vision, language = (load_step(step, checkpoint.weights) for step in (vision_step, language_step))
    return Built(vision_step, language_step, vision, language, reference)


def published(reference: EmbeddingReference, item: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The published processor's tensors of an item; "images" is a list of pages."""
    item = dict(item)
    pages = item.pop("images", [])
    conversation = reference.conversation(**item)
    conversation[1]["content"][:0] = [{"type": "image", "image": page} for page in pages]
    return reference.prepare(conversation)


def prepared(reference: EmbeddingReference, inputs: dict[str, torch.Tensor]) -> Tensors:
    """The same inputs as the towers take them: one row, images padded to the largest, frames by the image token."""
    config = reference.model.config
    ids_BT = inputs["input_ids"]
    positions, _ = reference.model.get_rope_index(
        ids_BT, inputs["mm_token_type_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
    )
    tensors: Tensors = {
        "input_ids": torch.where(ids_BT == config.video_token_id, config.image_token_id, ids_BT).numpy(),
        "position_ids": positions.transpose(0, 1).numpy(),
    }
    # In the order in which they stand in the text: videos, then images.
    pixels = [inputs[name] for name in ("pixel_values_videos", "pixel_values") if name in inputs]
    grids = [row for name in ("video_grid_thw", "image_grid_thw") if name in inputs for row in inputs[name].tolist()]
    if pixels:
        patches = ((torch.cat(pixels) * 0.5 + 0.5) * 255).round().to(torch.uint8).numpy()
        frames = [(rows, columns) for pairs, rows, columns in grids for _ in range(pairs)]
        counts = [rows * columns for rows, columns in frames]
        tensors["patches"] = stacked(np.split(patches, np.cumsum(counts)[:-1]))
        tensors["patch_positions"] = stacked([places(*frame) for frame in frames])
        tensors["patch_grids"] = stacked([np.tile(frame, (frame[0] * frame[1], 1)) for frame in frames], 1)
        tensors["patch_segments"] = stacked([np.zeros(count, np.int64) for count in counts], -1)
        tokens = [np.arange(count // 4) + image * max(counts) // 4 for image, count in enumerate(counts)]
        tensors["visual_index"] = np.concatenate(tokens)[None]
    return tensors


def stacked(images: list[NDArray[Any]], blank: int = 0) -> NDArray[Any]:
    """[1, G, P, ...], each image padded on the right to the largest."""
    rows: NDArray[Any] = np.stack([padded(image, 0, max(map(len, images)), blank) for image in images])
    return rows[None]


def padded(array: NDArray[Any], axis: int, length: int, blank: int = 0) -> NDArray[Any]:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - array.shape[axis])
    return np.pad(array, widths, constant_values=blank)


def places(rows: int, columns: int) -> NDArray[np.int64]:
    """Row and column of each patch [P, 2], two by two patches of a visual token together."""
    grid = np.moveaxis(np.indices((rows, columns)), 0, -1).reshape(rows // 2, 2, columns // 2, 2, 2)
    return grid.swapaxes(1, 2).reshape(-1, 2)


def wanted(reference: EmbeddingReference, inputs: dict[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    """Visual tokens with their levels, and states, from the published modules."""
    results = {}
    with torch.inference_mode():
        visual = []
        for kind in ("video", "image"):
            pixels = inputs.get("pixel_values_videos" if kind == "video" else "pixel_values")
            if pixels is not None:
                output = reference.model.visual(pixels, grid_thw=inputs[f"{kind}_grid_thw"])
                visual.append(torch.cat((output.pooler_output, *output.deepstack_features), dim=-1))
        if visual:
            results["visual_tokens"] = torch.cat(visual)[None].numpy()
        results["hidden_states"] = reference.model(**tensors_only(inputs)).last_hidden_state.numpy()
    return results


def tensors_only(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def largest(found: dict[str, NDArray[np.float32]], other: dict[str, NDArray[np.float32]]) -> float:
    assert found.keys() == other.keys()
    return max(float(np.abs(found[name] - other[name]).max()) for name in found)


# The extra length of each axis of a batch over its longest row: more tokens, more images, more patches.
MORE = {"input_ids": {1: 8}, "position_ids": {2: 8}, "visual_index": {1: 8}}
IMAGES = {1: 1, 2: 16}


def joined(rows: list[Tensors]) -> Tensors:
    """Rows as one batch, padded on the right as preparation does."""
    blanks = {"patch_segments": -1, "patch_grids": 1}
    batch = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        for axis, more in MORE.get(name, IMAGES).items():
            length = max(array.shape[axis] for array in arrays) + more
            arrays = [padded(array, axis, length, blanks.get(name, 0)) for array in arrays]
        batch[name] = np.concatenate(arrays)
    if "patches" in batch:
        # Images of a row are further apart now.
        tokens = batch["patches"].shape[2] // 4
        before = [row["patches"].shape[2] // 4 for row in rows]
        image, place = np.divmod(batch["visual_index"], np.reshape(before, (-1, 1)))
        batch["visual_index"] = image * tokens + place
    return batch
