"""Pages that are cut into tiles: pixels against code of others, tokens, lengths, and words that do not go together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.lengths import Range, usual_tokens, visual_tokens
from periscope_runtime.patches import joined, patchify
from periscope_runtime.paths import IMAGE
from periscope_runtime.prepare import Preparer
from periscope_runtime.recipe import AnyResolution, ClosestRatio, ImagePolicy, ResizeStep, Stretch, Tiles
from periscope_runtime.resize import resize
from periscope_runtime.tiles import best_resolution, closest_grid, tiled
from runtime.pictures import Pixels, encode, noise

SIDES = st.integers(1, 300)
# Of llava-hf/llava-v1.6-mistral-7b-hf, in tiles of 336.
PUBLISHED = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def cut(policy: ImagePolicy, **words: Any) -> ImagePolicy:
    return replace(policy, resize=(), min_pixels=None, max_pixels=None, max_aspect_ratio=None, tiles=Tiles(**words))


def twin_grid(width: int, height: int, side: int, fewest: int, most: int) -> tuple[int, int]:
    """Eagle 2 step by step: every grid in turn, strictly better ones alone; a set, sorted by the number of tiles."""
    grids = set()
    for longest in range(fewest, most + 1):
        for columns in range(1, longest + 1):
            for rows in range(1, longest + 1):
                if fewest <= columns * rows <= most:
                    grids.add((columns, rows))
    best, chosen = float("-inf"), (1, 1)
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        ratio, wanted = columns / rows, width / height
        kept = min((columns * rows * side * side) / (width * height), 0.6) * min(ratio / wanted, wanted / ratio)
        if kept > best:
            best, chosen = kept, (columns, rows)
    return chosen


def twin_tiles(page: Image.Image, side: int, most: int) -> list[Pixels]:
    """Tile by tile, from the pixels of the stretched page; the whole page behind them where they are several."""
    columns, rows = twin_grid(*page.size, side, 1, most)
    whole = np.asarray(page.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    found = []
    for number in range(columns * rows):
        row, column = number // columns * side, number % columns * side
        found.append(whole[row : row + side, column : column + side])
    if len(found) > 1:
        found.append(np.asarray(page.resize((side, side), Image.Resampling.BICUBIC)))
    return found


@given(SIDES, SIDES, st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_tiles_of_a_budget_are_those_of_the_twin(policy: ImagePolicy, width: int, height: int, most: int) -> None:
    policy = cut(policy, side=56, closest_ratio=ClosestRatio(most), thumbnail=None if most == 1 else "last")
    page = noise(width, height)
    found, wanted = tiled(page, policy), twin_tiles(page, 56, most)
    assert len(found) == len(wanted)
    for tile, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(tile), other)


@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(1, 3), st.integers(0, 20), st.booleans())
@settings(deadline=None, max_examples=300)
def test_the_grid_of_a_budget_is_that_of_the_twin(
    width: int, height: int, fewest: int, more: int, square: bool
) -> None:
    """Square pages too, on which grids are equal but for rounding, or turned."""
    height = width if square else height
    found = closest_grid(width, height, 512, ClosestRatio(fewest + more, fewest))
    assert found == twin_grid(width, height, 512, fewest, fewest + more)


def test_a_scanned_page_has_six_tiles_and_a_thumbnail() -> None:
    assert closest_grid(1654, 2339, 512, ClosestRatio(6)) == (2, 3)


@given(SIDES, SIDES)
@settings(deadline=None, max_examples=60)
def test_tiles_of_any_resolution_are_those_of_transformers(policy: ImagePolicy, width: int, height: int) -> None:
    resolutions = tuple((rows // 6, columns // 6) for rows, columns in PUBLISHED)
    policy = cut(policy, side=56, any_resolution=AnyResolution(resolutions), thumbnail="first")
    square = {"height": 56, "width": 56}
    processor = LlavaNextImageProcessorPil(
        image_grid_pinpoints=[list(one) for one in resolutions], size={"shortest_edge": 56}, crop_size=square
    )
    page = noise(width, height)
    result = processor.preprocess(page, do_rescale=False, do_normalize=False, return_tensors="np")
    found = np.stack([np.asarray(tile).transpose(2, 0, 1) for tile in tiled(page, policy)])
    np.testing.assert_array_equal(found, result["pixel_values"][0])


@given(st.one_of(SIDES, st.integers(1, 9000)), st.one_of(SIDES, st.integers(1, 9000)), st.permutations(PUBLISHED))
@settings(deadline=None, max_examples=200)
def test_the_resolution_is_that_of_transformers(height: int, width: int, listed: list[tuple[int, int]]) -> None:
    """Of small pages, too, which each of them shows whole."""
    found = best_resolution(height, width, AnyResolution(tuple(listed)))
    assert found == select_best_resolution((height, width), [list(one) for one in listed])


def test_a_page_may_be_resized_before(policy: ImagePolicy) -> None:
    """As VLM2Vec squashes pages for LLaVA-NeXT: whatever their shape, four tiles."""
    policy = cut(policy, side=56, any_resolution=AnyResolution(((56, 112), (112, 112))), thumbnail="first")
    assert visual_tokens(policy) == Range(3 * 4, 5 * 4)
    squashing = replace(policy, resize=(ResizeStep(stretch=Stretch(224)),))
    page = noise(400, 100)
    assert len(tiled(resize(page, policy), policy)) == 3
    squashed = page.resize((224, 224), Image.Resampling.BICUBIC)
    found = tiled(resize(page, squashing), squashing)
    for tile, box in zip(found[1:], ((0, 0), (56, 0), (0, 56), (56, 56)), strict=True):
        left, top = box
        wanted = squashed.resize((112, 112), Image.Resampling.BICUBIC).crop((left, top, left + 56, top + 56))
        np.testing.assert_array_equal(np.asarray(tile), np.asarray(wanted))


Build = Callable[..., Preparer]


@pytest.fixture(scope="module")
def build(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A preparer of ColQwen2 whose pages are cut into tiles of 56 pixels, four visual tokens each."""
    recipe, made = json.loads((folder / "recipe.json").read_text()), tmp_path_factory.mktemp("tiles")
    (made / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())

    def make(words: dict[str, Any], **changes: Any) -> Preparer:
        preparation = json.loads(json.dumps(recipe["preparation"]))
        unread = dict.fromkeys(("min_pixels", "max_pixels", "max_aspect_ratio"))
        image = {**preparation["image"], **unread, "resize": [], "tiles": words}
        preparation = {**preparation, "image": image, "positions": "sequential", **changes}
        (made / "recipe.json").write_text(json.dumps({"preparation": preparation}))
        return Preparer(made)

    return make


SIX = {"side": 56, "closest_ratio": {"max_tiles": 6}, "thumbnail": "last"}
LLAVA = {"side": 56, "any_resolution": {"resolutions": [[56, 112], [112, 112], [56, 168]]}, "thumbnail": "first"}


def test_one_image_token_stands_for_all_tiles_in_order(build: Build) -> None:
    preparer, page = build(SIX), noise(165, 234)
    policy = preparer.preparation.page_policy
    row = preparer.image(encode(page, "PNG"))
    assert row.patches is not None
    assert row.patches.grids == ((2, 2),) * 7
    tiles = [patchify([Image.fromarray(tile)], policy) for tile in twin_tiles(page, 56, 6)]
    wanted = joined(tiles, policy)
    np.testing.assert_array_equal(row.patches.patches_PC, wanted.patches_PC)
    np.testing.assert_array_equal(row.patches.positions_P2, wanted.positions_P2)
    (places,) = np.nonzero(row.input_ids_T == preparer.image_token_id)
    assert places.tolist() == list(range(places[0], places[0] + 7 * 4))
    np.testing.assert_array_equal(row.positions_3T, np.tile(np.arange(len(row.input_ids_T)), (3, 1)))


def test_tiles_are_rows_of_their_own_and_make_no_grid(build: Build) -> None:
    preparer = build(SIX, buckets={"patches": 16, "page_tokens": 32, "text_tokens": 16})
    rows = [preparer.image(encode(noise(*size), "PNG")) for size in ((165, 234), (60, 60))]
    tensors = collate(rows, preparer.preparation.buckets)
    assert "visual_grid" not in tensors
    assert tensors["patches"].shape == (2, 7, 16, 1176)
    assert tensors["visual_index"].tolist() == [list(range(28)), [0, 1, 2, 3] + [0] * 24]
    assert (tensors["patch_segments"][1] == [[0] * 16] + [[-1] * 16] * 6).all()


@pytest.mark.parametrize("words", [SIX, LLAVA])
@pytest.mark.parametrize("bucket", [16, 24, 64])
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3))
@settings(deadline=None, max_examples=15)
def test_no_tensor_is_shorter_or_longer_than_is_said(
    build: Build, words: dict[str, Any], bucket: int, sizes: list[tuple[int, int]]
) -> None:
    preparer = build(words, buckets={"patches": bucket, "page_tokens": 8, "text_tokens": 8})
    lengths = preparer.lengths[IMAGE]
    tensors = collate([preparer.image(encode(noise(*size), "PNG")) for size in sizes], preparer.preparation.buckets)
    _, rows, patches, _ = tensors["patches"].shape
    found = {
        "tokens": tensors["input_ids"].shape[1],
        "visual_tokens": tensors["visual_index"].shape[1],
        "image_rows": rows,
        "row_tokens": patches // 4,
    }
    for name, length in found.items():
        smallest, largest = getattr(lengths, name)
        assert smallest <= length <= largest, name


def test_the_longest_page_is_the_budget(build: Build) -> None:
    preparer = build(SIX, buckets={"patches": 16, "page_tokens": 1, "text_tokens": 1})
    lengths = preparer.lengths[IMAGE]
    assert (lengths.visual_tokens, lengths.image_rows, lengths.row_tokens) == (Range(4, 28), Range(1, 7), Range(4, 4))
    assert usual_tokens(preparer.preparation.page_policy) == 28
    assert len(preparer.image(encode(noise(165, 234), "PNG")).input_ids_T) == lengths.tokens.largest
    assert len(preparer.image(encode(noise(60, 60), "PNG")).input_ids_T) == lengths.tokens.smallest


def test_the_limit_of_tokens_holds_for_all_tiles(build: Build, preparer: Preparer) -> None:
    limits = {**vars(preparer.preparation.limits), "tokens": 40}
    small = build(SIX, limits=limits)
    small.image(encode(noise(60, 60), "PNG"))
    with pytest.raises(PreparationError, match="28 of them visual, above the limit of 40"):
        small.image(encode(noise(165, 234), "PNG"))


RATIO, RESOLUTION = ClosestRatio(2), AnyResolution(((56, 112),))


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ({"side": 0, "closest_ratio": RATIO}, ["side of tiles is 0"]),
        ({"side": 56}, ["exactly one of closest_ratio, any_resolution"]),
        ({"side": 56, "closest_ratio": RATIO, "any_resolution": RESOLUTION}, ["exactly one of"]),
        ({"side": 56, "closest_ratio": ClosestRatio(3, 4)}, ["min_tiles 4 and max_tiles 3 leave no grid"]),
        ({"side": 56, "closest_ratio": ClosestRatio(3, 0)}, ["min_tiles is 0"]),
        ({"side": 56, "closest_ratio": ClosestRatio(1), "thumbnail": "last"}, ["nothing reads thumbnail"]),
        ({"side": 56, "any_resolution": AnyResolution(())}, ["has no resolutions"]),
        ({"side": 56, "any_resolution": AnyResolution(((56, 57), (0, 56)))}, ["resolution 56 x 57", "0 x 56"]),
    ],
)
def test_words_that_make_no_tiles_are_named(words: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        Tiles(**words)
    for problem in problems:
        assert re.search(problem, str(raised.value)), str(raised.value)


def test_tiles_hold_whole_visual_tokens(policy: ImagePolicy) -> None:
    with pytest.raises(ValueError, match="side of tiles is 42, and a visual token has 28 pixels"):
        cut(policy, side=42, closest_ratio=RATIO)


def test_a_tower_that_pools_itself_takes_no_tiles(build: Build) -> None:
    with pytest.raises(ValueError, match="tiles need a prompt for images"):
        build(SIX, prompts={"query": {"image": ""}})
