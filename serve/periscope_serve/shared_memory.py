"""The shared memory that the models of a repository need, and whether there is so much.

Every process of a model holds what it reads and writes in a region of its own, which grows with the largest item and
never shrinks. Where `/dev/shm` is too small, Triton gets ready, and then every page fails.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from periscope_runtime.lengths import Range, item_lengths
from periscope_runtime.paths import IMAGE, ItemPath
from periscope_runtime.recipe_file import load_preparation
from periscope_serve import preparation
from periscope_serve.errors import BadRepositoryError, StartError
from periscope_serve.machine import MEBIBYTE
from periscope_serve.repository import ENSEMBLE, Model, Tensor

SHARED_MEMORY = Path("/dev/shm")

_AT_REST = MEBIBYTE  # of every process
_BYTES = {"TYPE_FP32": 4, "TYPE_INT32": 4, "TYPE_FP16": 2, "TYPE_BF16": 2, "TYPE_UINT8": 1, "TYPE_INT64": 8}
# The free axes of the tensors between the steps, in order, as docs/model-repository.md calls them.
_AXES = {
    "patches": "GP",
    "patch_positions": "GP",
    "patch_grids": "GP",
    "patch_segments": "GP",
    "visual_index": "V",
    "visual_tokens": "V",
    "dense": "D",
    "dense_columns": "D",
}
_OTHER_AXES = "T"
_PROMPT = 64


def check(models: Mapping[str, Model]) -> Iterator[str]:
    """Yield a warning for each ensemble whose largest item does not fit; pages have to.

    Raises: StartError where there is no shared memory, or no room for a page at the recipe's limits,
    BadRepositoryError where there is no recipe that can be read.
    """
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        raise StartError(
            f"{SHARED_MEMORY}, where Triton and its models exchange tensors: {error.strerror}. Mount a tmpfs there"
        ) from None
    free = room.f_bavail * room.f_frsize
    at_rest = sum(model.backend != ENSEMBLE for model in models.values()) * _AT_REST
    for model in models.values():
        steps = [models[step.model_name] for step in model.config.ensemble_scheduling.step]
        prepare = next((step for step in steps if preparation.path(step)), None)
        if prepare is None or (needed := at_rest + _largest_item(steps, prepare)) <= free:
            continue
        items = _items(prepare)
        said = (
            f"{SHARED_MEMORY} has {free // MEBIBYTE} MiB left, and the largest {items.item} of {model.name} takes "
            f"{-(-needed // MEBIBYTE)}. Make it larger (`docker run --shm-size=1g`; in Kubernetes an emptyDir with "
            "medium: Memory), or remove what others left there"
        )
        if items is IMAGE:
            raise StartError(said)
        yield said


def remove(prefix: str) -> None:
    """Remove the regions whose names begin so."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _largest_item(steps: list[Model], prepare: Model) -> int:
    """Return the bytes of everything that the steps of a path read and write for the largest item."""
    items = _items(prepare)
    file = prepare.version_folder(prepare.served[-1]) / "recipe.json"
    if not file.is_file():
        return 0
    try:
        recipe = load_preparation(file)
    except ValueError as error:
        raise BadRepositoryError(f"model '{prepare.name}': {error}") from None
    # The prompt around a page is short; how many tokens it has exactly, only the tokenizer knows.
    prompt = Range(1, _PROMPT if items.embedded and items.visual else recipe.beside_images(items))
    lengths = item_lengths(recipe, {items: prompt})[items]
    merged = 1 if recipe.image is None else recipe.image.merge_size**2
    row = lengths.row_tokens.largest * merged
    patches = lengths.image_rows.largest * row
    if recipe.image is None or recipe.image.window == 1:
        # Of rows of patches no item has the most and the longest ones together.
        patches = min(patches, 2 * lengths.visual_tokens.largest * merged + row)
    axes = {"V": lengths.visual_tokens.largest, "T": lengths.tokens.largest, "D": 0, "G": 1, "P": patches}
    return sum(
        _size(name, tensor, axes) for step in steps for name, tensor in (*step.inputs.items(), *step.outputs.items())
    )


def _items(prepare: Model) -> ItemPath:
    """Return the path of what a model prepares."""
    items = preparation.path(prepare)
    assert items is not None, prepare.name
    return items


def _size(name: str, tensor: Tensor, axes: Mapping[str, int]) -> int:
    free = iter(_AXES.get(name, _OTHER_AXES))
    dims = [axes[next(free, _OTHER_AXES)] if length < 0 else length for length in tensor.dims]
    return math.prod(dims) * _BYTES.get(tensor.data_type, 0)
