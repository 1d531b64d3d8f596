"""Items to rows: what one item is to the graphs, before rows are padded and stacked.

T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from periscope_runtime.asked import Asked
from periscope_runtime.errors import PreparationError
from periscope_runtime.image import allow_pixels, decode_image
from periscope_runtime.item import Item, decoded
from periscope_runtime.kinds import ContentKind, described, single, spelled, templates
from periscope_runtime.lengths import ItemLengths, item_lengths
from periscope_runtime.patches import Patches, joined, patchify
from periscope_runtime.paths import EMBEDDED, RERANK, ItemPath
from periscope_runtime.positions import mrope_positions, sequential_positions
from periscope_runtime.prefixes import read_prefixes
from periscope_runtime.prompt import Content, Prompt, PromptEncoder
from periscope_runtime.recipe import Preparation
from periscope_runtime.recipe_file import load_preparation
from periscope_runtime.resize import resize
from periscope_runtime.tiles import tiled
from periscope_runtime.video import resize_frames, sample

Read = TypeVar("Read")


@dataclass(frozen=True)
class Row:
    """One prepared item, unpadded: `input_ids_T`, `positions_3T`, `spans_T2` of its tokens in its text.

    `pooled_T` int32 says which tokens make the dense vector, or the score. What may hold images has `patches`, zero of
    them where there is no image; a page that is one image has its `visual_grid`: the index of its first visual token,
    rows, columns, the last two 0 where an item has several. `first_image` is the index of the first visual token, None
    where an item has no image of its own. `adapter` is the place of its adapter among those that are chosen by row,
    None where none are.
    """

    input_ids_T: npt.NDArray[np.int32]
    positions_3T: npt.NDArray[np.int32]
    spans_T2: npt.NDArray[np.int32]
    pooled_T: npt.NDArray[np.int32]
    patches: Patches | None = None
    visual_grid: tuple[int, int, int] | None = None
    first_image: int | None = None
    adapter: int | None = None

    def without(self, tokens: int) -> Row:
        """Return the row without so many of its first tokens, none of an image of its own or pooled; positions stay."""
        grid, first = self.visual_grid, self.first_image
        return replace(
            self,
            input_ids_T=self.input_ids_T[tokens:],
            positions_3T=self.positions_3T[:, tokens:],
            spans_T2=self.spans_T2[tokens:],
            pooled_T=self.pooled_T[tokens:],
            visual_grid=None if grid is None else (grid[0] - tokens, *grid[1:]),
            first_image=None if first is None else first - tokens,
        )


class Side(NamedTuple):
    """An item that was read: what stands in its prompt, and the patches of its images."""

    content: Content
    patches: Patches | None


class Preparer:
    """Prepares single items. Holds no state between calls, so threads may share it.

    `kept` are the prefixes of prompts that the language model keeps, for `collate`; None where it keeps none.
    """

    def __init__(self, folder: Path) -> None:
        """Read `recipe.json`, `tokenizer.json` and `prefixes.json` from a folder of the model repository."""
        self.preparation: Preparation = load_preparation(folder / "recipe.json")
        allow_pixels(self.preparation.limits)
        self.kept = read_prefixes(folder)
        self._prompts = PromptEncoder(self.preparation, folder / "tokenizer.json")

    @property
    def image_token_id(self) -> int | None:
        """The id of the token that visual tokens replace; None for a retriever without one."""
        return self._prompts.image_token_id

    @property
    def lengths(self) -> dict[ItemPath, ItemLengths]:
        """Between which lengths the tensors of all items are, by their path."""
        return item_lengths(self.preparation, {path: self._prompts.lengths(path) for path in self.preparation.paths})

    def text(self, data: bytes, role: str | None = None) -> Row:
        """Prepare UTF-8 bytes. Raises `PreparationError`."""
        return self.item(Item(text=data), Asked(role))

    def image(self, data: bytes, role: str | None = None) -> Row:
        """Prepare the bytes of an image file. Raises `PreparationError`."""
        return self.item(Item(images=[data]), Asked(role))

    def item(self, item: Item, asked: Asked) -> Row:
        """Prepare an item that is embedded. Raises `PreparationError`."""
        self._check_kind(item.kind, self.preparation.kinds)
        content, patches = self._read(item)
        path = next(path for path in EMBEDDED if path.content == single(item.kind)[0])
        prompt = self._prompts.embedded(content, asked)
        if prompt is None:
            # No prompt: what the image tower makes is one state, which stands where a token's would.
            one = np.ones(1, np.int32)
            return Row(0 * one, sequential_positions(1), np.zeros((1, 2), np.int32), one, patches)
        return self._row(prompt, patches, path)

    def check(self, asked: Asked) -> None:
        """Raise `PreparationError` for what is asked of every pair of a request, and cannot be."""
        self._prompts.check(asked)

    def side(self, item: Item) -> Side:
        """Read one side of a pair; a query is read once for all documents. Raises `PreparationError`."""
        pair = self.preparation.pair
        assert pair is not None
        self._check_kind(item.kind, set(templates(pair.contents)))
        return self._read(item)

    def pair(self, query: Side, document: Side, asked: Asked) -> Row:
        """Prepare a query and a document that are judged together. Raises `PreparationError`."""
        prompt = self._prompts.pair(query.content, document.content, asked)
        image, parts = self.preparation.image, [one.patches for one in (query, document) if one.patches is not None]
        return self._row(prompt, None if image is None else joined(parts, image), RERANK)

    def nothing(self) -> Row:
        """Return a row that stands where an item could not be prepared: one token, nothing pooled, no image."""
        none, image = np.zeros(1, np.int32), self.preparation.image
        patches = None if image is None else joined([], image)
        adapter = 0 if self.preparation.stacked else None
        return Row(none, sequential_positions(1), np.zeros((1, 2), np.int32), none, patches, adapter=adapter)

    def _check_kind(self, kind: ContentKind, known: set[ContentKind]) -> None:
        if kind not in known:
            raise PreparationError(
                f"is {described(kind)}, which this retriever does not take",
                f"Send one of: {', '.join(sorted(map(spelled, known)))}",
            )

    def _read(self, item: Item) -> Side:
        text = None if item.text is None else decoded(item.text)
        if item.images:
            pages = self._pages(item.images)
            # One image token stands for all tiles of an image.
            shown = [sum(page.visual_tokens) for page in pages]
            return Side(Content(item.kind, text, shown), joined(pages, self.preparation.page_policy))
        if item.video is not None:
            patches = self._video(item.video)
            return Side(Content(item.kind, text, patches.visual_tokens), patches)
        return Side(Content(item.kind, text), None)

    def _pages(self, images: Sequence[bytes]) -> list[Patches]:
        if len(images) == 1:
            return [self._page(images[0])]
        several = self.preparation.images
        assert several is not None
        if len(images) > several.most:
            raise PreparationError(
                f"has {len(images)} images, above the limit of {several.most}", "Send fewer, or several items"
            )
        return _each("an image", images, self._page)

    def _page(self, data: bytes) -> Patches:
        policy = self.preparation.page_policy
        page = resize(decode_image(data, self.preparation.limits), policy)
        return joined([patchify([image], policy) for image in tiled(page, policy)], policy)

    def _video(self, frames: Sequence[bytes]) -> Patches:
        policy, video = self.preparation.page_policy, self.preparation.video
        assert video is not None
        if not frames:
            raise PreparationError("has no frames", "Send at least one")
        limits = self.preparation.limits
        decoded_frames = _each("a frame", sample(frames, video), lambda frame: decode_image(frame, limits))
        return patchify(resize_frames(decoded_frames, policy, video), policy)

    def _row(self, prompt: Prompt, patches: Patches | None, path: ItemPath) -> Row:
        grids = [] if patches is None else list(patches.grids)
        pooled_T = prompt.poolable_T.astype(np.int32)
        if not pooled_T.any():
            raise PreparationError("has no token that is pooled", "Correct the marks in the prompts of the recipe")
        if self.preparation.pooled(path) == "last":
            pooled_T[: np.flatnonzero(pooled_T)[-1]] = 0
        grid, first = None, None
        if grids:
            first = int(np.argmax(prompt.input_ids_T == self.image_token_id))
        if self.preparation.place(path) == "visual_grid":
            assert first is not None
            rows, columns = grids[0] if len(grids) == 1 else (0, 0)
            grid = (first, rows, columns)
        positions_3T = self._positions(prompt.input_ids_T, [*prompt.grids, *grids])
        return Row(prompt.input_ids_T, positions_3T, prompt.spans_T2, pooled_T, patches, grid, first, prompt.adapter)

    def _positions(self, input_ids_T: npt.NDArray[np.int32], grids: list[tuple[int, int]]) -> npt.NDArray[np.int32]:
        if self.preparation.positions == "sequential" or self.image_token_id is None:
            return sequential_positions(len(input_ids_T))
        return mrope_positions(input_ids_T, self.image_token_id, grids)


def _each(what: str, files: Sequence[bytes], read: Callable[[bytes], Read]) -> list[Read]:
    """Read files in order; one that cannot be read is named by its place."""
    found = []
    for index, file in enumerate(files):
        try:
            found.append(read(file))
        except PreparationError as error:
            raise PreparationError(f"has {what} {index} that {error.problem}", error.remedy) from None
    return found
