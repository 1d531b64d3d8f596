"""Items to rows, and rows to the padded tensors of one request.

B rows, P patches, C bytes a patch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from periscope_runtime.errors import PreparationError
from periscope_runtime.image import decode_image
from periscope_runtime.lengths import ItemLengths, bucketed, item_lengths
from periscope_runtime.patches import Patches, patchify
from periscope_runtime.positions import mrope_positions, sequential_positions
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import Buckets, Preparation, load_preparation
from periscope_runtime.resize import resize

Tensors = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Row:
    """One prepared item, unpadded: `input_ids_T`, `positions_3T`.

    A text also has the `spans_T2` of its tokens; a page its `patches` and its `visual_grid`: the index of its first
    visual token, rows, columns.
    """

    input_ids_T: npt.NDArray[np.int32]
    positions_3T: npt.NDArray[np.int32]
    spans_T2: npt.NDArray[np.int32] | None = None
    patches: Patches | None = None
    visual_grid: tuple[int, int, int] | None = None


class Preparer:
    """Prepares single items. Holds no state between calls, so threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Read `recipe.json` and `tokenizer.json` from a folder of the model repository."""
        self.preparation: Preparation = load_preparation(folder / "recipe.json")
        self._prompts = PromptEncoder(self.preparation, folder / "tokenizer.json")

    @property
    def image_token_id(self) -> int:
        """The id of the token that visual tokens replace."""
        return self._prompts.image_token_id

    @property
    def lengths(self) -> ItemLengths:
        """Between which lengths the tensors of all items are."""
        return item_lengths(self.preparation, self._prompts.page_prompts)

    def text(self, data: bytes, role: str | None = None) -> Row:
        """Prepare UTF-8 bytes. Raises `PreparationError`."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise PreparationError("is not valid UTF-8", "Send UTF-8 text") from None
        input_ids_T, spans_T2 = self._prompts.text(text, role)
        return Row(input_ids_T, self._positions(input_ids_T, []), spans_T2)

    def image(self, data: bytes, role: str | None = None) -> Row:
        """Prepare the bytes of an image file. Raises `PreparationError`."""
        policy = self.preparation.image
        patches = patchify(resize(decode_image(data, self.preparation.limits), policy), policy)
        rows, columns = patches.grid
        input_ids_T = self._prompts.image(rows * columns, role)
        first = int(np.argmax(input_ids_T == self.image_token_id))
        positions_3T = self._positions(input_ids_T, [patches.grid])
        return Row(input_ids_T, positions_3T, patches=patches, visual_grid=(first, rows, columns))

    def _positions(self, input_ids_T: npt.NDArray[np.int32], grids: list[tuple[int, int]]) -> npt.NDArray[np.int32]:
        if self.preparation.positions == "sequential":
            return sequential_positions(len(input_ids_T))
        return mrope_positions(input_ids_T, self.image_token_id, grids)


def collate(rows: Sequence[Row], buckets: Buckets) -> Tensors:
    """Pad rows of one kind to their common bucket and stack them.

    Tokens `input_ids` int32 [B, T], `position_ids` int32 [B, 3, T], `late_mask` int32 [B, T] (1 = keep this token's
    vector), `pool_mask` int32 [B, T] (1 = this token's state belongs to the dense vector). Texts also `token_spans`
    int32 [B, T, 2]. Pages also `patches` uint8 [B, P, C], `patch_positions` int32 [B, P, 2], `patch_segments` int32
    [B, P] (which frame a patch belongs to, -1 = padding), `visual_grid` int32 [B, 3]. Padding is on the right and zero.
    """
    pages = [row.patches for row in rows if row.patches is not None]
    tokens = bucketed(max(len(row.input_ids_T) for row in rows), buckets.page_tokens if pages else buckets.text_tokens)
    tensors: Tensors = {
        "input_ids": _stack([row.input_ids_T for row in rows], tokens, axis=0),
        "position_ids": _stack([row.positions_3T for row in rows], tokens, axis=1),
        "late_mask": _stack([np.ones_like(row.input_ids_T) for row in rows], tokens, axis=0),
        "pool_mask": _stack([np.ones_like(row.input_ids_T) for row in rows], tokens, axis=0),
    }
    spans = [row.spans_T2 for row in rows if row.spans_T2 is not None]
    if spans:
        tensors["token_spans"] = _stack(spans, tokens, axis=0)
    if pages:
        length = bucketed(max(len(page.patches_PC) for page in pages), buckets.patches)
        segments = [np.zeros(len(page.patches_PC), dtype=np.int32) for page in pages]
        tensors["patches"] = _stack([page.patches_PC for page in pages], length, axis=0)
        tensors["patch_positions"] = _stack([page.positions_P2 for page in pages], length, axis=0)
        tensors["patch_segments"] = _stack(segments, length, axis=0, fill=-1)
        tensors["visual_grid"] = np.array([row.visual_grid for row in rows], dtype=np.int32)
    return tensors


def no_visual_tokens(rows: int, width: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    """Return [B, 0, H] of the graphs' precision: what the language model takes beside texts."""
    return np.zeros((rows, 0, width), dtype)


def _stack(arrays: Sequence[npt.NDArray[np.generic]], length: int, axis: int, fill: int = 0) -> npt.NDArray[np.generic]:
    shape = list(arrays[0].shape)
    shape[axis] = length
    stacked = np.full((len(arrays), *shape), fill, dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return stacked
