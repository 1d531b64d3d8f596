"""Every field of `preparation` decides something: what a change of it makes of items differs, or is refused.

A field without a line here fails.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from periscope_export.models.kept_image import constant_rows
from periscope_export.models.pixels import Pixels
from periscope_export.recipes.schema import Recipe
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.paths import IMAGE, RERANK, TEXT, VIDEO
from periscope_runtime.positions import mrope_positions
from periscope_runtime.prepare import Preparer, Row
from periscope_runtime.recipe import Preparation
from runtime.pictures import encode, noise
from runtime.test_contents import CHANGES as SECTIONS
from runtime.test_contents import CONTENTS, FRAMES

# Every section is there, and every kind of content.
EVERY = {**CONTENTS, "images": "{images}", "images_text": "{images}{text}"}
BASE: dict[str, Any] = {
    **SECTIONS,
    "prompts": {"query": {kind: "{instruction}|" + one + "|{augmentation}end" for kind, one in EVERY.items()}},
    "images": {"image": "<|vision_start|><|image_pad|><|vision_end|>", "most": 3},
    "augmentation": {"token": "<|endoftext|>", "count": 2},
    "video": {**SECTIONS["video"], "max_frames": 8, "min_pixels": 4096, "max_pixels": 50176, "total_pixels": 150528},
}
PAGES = [encode(noise(*size), "PNG") for size in ((333, 77), (20, 60), (300, 400), (8, 500))]
VIDEO_ITEMS = [Item(video=FRAMES), Item(video=FRAMES * 8), Item(video=[encode(noise(400, 300), "PNG")] * 2)]
ITEMS = [
    Item(text=b' "cats\r" '),
    *(Item(images=[page]) for page in PAGES),
    *VIDEO_ITEMS,
    Item(images=PAGES[:2]),
    Item(images=PAGES[:3]),
    Item(b"cats", images=PAGES[:1]),
]
ASKED = [Asked(), Asked(instruction=" find them "), Asked(task="same")]


def outcomes(preparer: Preparer) -> Iterator[bytes | str]:
    """Everything that is prepared, item by item, or why it is not."""

    def told(prepare: Callable[[], Row]) -> Iterator[bytes | str]:
        try:
            for name, tensor in collate([prepare()], preparer.preparation.buckets).items():
                yield f"{name} {tensor.shape}".encode() + tensor.tobytes()
        except (PreparationError, AssertionError, MemoryError) as error:
            yield f"{error}"

    for item in ITEMS:
        yield from told(lambda item=item: preparer.item(item, Asked()))  # type: ignore[misc]
    for asked in ASKED:
        yield from told(lambda asked=asked: preparer.item(ITEMS[0], asked))  # type: ignore[misc]
    if preparer.preparation.pair is not None:
        yield from told(lambda: preparer.pair(preparer.side(ITEMS[0]), preparer.side(ITEMS[-1]), Asked()))
    if preparer.preparation.image is not None:
        pixels = Pixels(preparer.preparation.image)
        one = torch.ones((1, 1, preparer.preparation.image.patch_dim), dtype=torch.uint8)
        yield pixels(one).numpy().tobytes()
    if preparer.preparation.constant_image is not None:
        for name, tensor in constant_rows(preparer.preparation).items():
            yield f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()


def resized(*kinds: dict[str, Any], **image: Any) -> dict[str, Any]:
    """A policy of these steps alone, and of patches without a merge."""
    sizes = {name: image.get(name) for name in ("min_pixels", "max_pixels", "side")}
    return {f"image.{name}": value for name, value in {"resize": list(kinds), "merge_size": 1, **sizes}.items()}


# Tiles need plain positions, and no videos.
CONTENTS_OF_PAGES = {kind: one for kind, one in EVERY.items() if "video" not in kind}
TILED_PAGES: dict[str, Any] = {
    "positions": "sequential",
    "video": None,
    "prompts": {"query": {kind: "{instruction}" + one + "{augmentation}" for kind, one in CONTENTS_OF_PAGES.items()}},
    "pair.contents": CONTENTS_OF_PAGES,
}


def tiles(**words: Any) -> dict[str, Any]:
    return {**TILED_PAGES, **resized(), "image.tiles": words}


BUDGET = {"side": 56, "closest_ratio": {"max_tiles": 4}, "thumbnail": "last"}
RESOLUTIONS = {"side": 56, "any_resolution": {"resolutions": [[56, 112], [112, 56]]}, "thumbnail": "first"}
TILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "side": (84, tiles(**BUDGET)),
    "closest_ratio": (None, tiles(**BUDGET)),
    "closest_ratio.max_tiles": (5, tiles(**BUDGET)),
    "closest_ratio.min_tiles": (4, tiles(**BUDGET)),
    "any_resolution": (None, tiles(**RESOLUTIONS)),
    "any_resolution.resolutions": ([[112, 56], [112, 112]], tiles(**RESOLUTIONS)),
    "thumbnail": ("first", tiles(**BUDGET)),
}
# Tasks, each with an adapter, and documents with prompts of their own.
ADAPTED: dict[str, Any] = {
    "prompts": {
        **BASE["prompts"],
        "document": {kind: "{instruction}" + one + "{augmentation}" for kind, one in EVERY.items()},
    },
    "tasks": {"other": {"adapter": "two"}, "third": {"adapter": "one"}, "same": {"adapter": "one"}},
    "task": "same",
}
# An image beside texts.
DUMMY: dict[str, Any] = {
    "prompts": {
        "query": {**BASE["prompts"]["query"], "text": "{constant_image}{instruction}|{text}|{augmentation}end"}
    },
    "constant_image": {"width": 56, "height": 28, "colour": [0, 0, 0]},
}
AREA = {"min_pixels": 3136, "max_pixels": 100352}
FIRST = "image.resize.0"
# By field: the value that it changes to, and what is changed before, of both.
WORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "positions": ("sequential", {}),
    "prompts": ({"query": {kind: "{instruction}!" + one + "{augmentation}" for kind, one in EVERY.items()}}, {}),
    "image": (None, {}),
    "image.patch_size": (28, {}),
    "image.temporal_patch_size": (1, {}),
    "image.merge_size": (1, {}),
    "image.resample": ("lanczos", {}),
    "image.mean": ([0.5, 0.5, 0.4], {}),
    "image.std": ([0.5, 0.5, 0.4], {}),
    "image.max_aspect_ratio": (2, {}),
    "image.resize": ([{"area": {"multiple": 56}}], {}),
    f"{FIRST}.area": (None, {}),
    f"{FIRST}.area.multiple": (56, {}),
    f"{FIRST}.area.min_pixels": (40000, resized({"area": AREA})),
    f"{FIRST}.area.max_pixels": (50176, resized({"area": AREA})),
    f"{FIRST}.area.min_side": (3, {}),
    f"{FIRST}.area.clamp_ratio": (3, {}),
    f"{FIRST}.stretch": (None, resized({"stretch": {"side": 56}})),
    f"{FIRST}.stretch.side": (84, resized({"stretch": {"side": 56}})),
    f"{FIRST}.stretch.below": (28, resized({"stretch": {"side": 56}}, {"area": AREA})),
    f"{FIRST}.crop": (None, resized({"crop": {"side": 56}})),
    f"{FIRST}.crop.side": (84, resized({"crop": {"side": 56}})),
    f"{FIRST}.pad": (None, resized({"pad": {"side": 56}})),
    f"{FIRST}.pad.side": (84, resized({"pad": {"side": 56}})),
    f"{FIRST}.pad.colour": ([1, 2, 3], resized({"pad": {"side": 56}})),
    f"{FIRST}.trim": ({}, {}),
    "image.min_pixels": (40000, {}),
    "image.max_pixels": (40000, {}),
    "image.side": (56, {}),
    "image.window_size": (56, {}),
    "image.tiles": ({"side": 56, "closest_ratio": {"max_tiles": 4}}, TILED_PAGES),
    **{f"image.tiles.{name}": words for name, words in TILES.items()},
    "image_token": ("<|vision_start|>", {}),
    "images": (None, {}),
    "images.image": ("<|vision_start|><|image_pad|>", {}),
    "images.most": (2, {}),
    "constant_image": (None, DUMMY),
    "constant_image.width": (28, DUMMY),
    "constant_image.height": (56, DUMMY),
    "constant_image.colour": ([0, 0, 1], DUMMY),
    "augmentation": (None, {}),
    "augmentation.token": ("<|im_end|>", {}),
    "augmentation.count": (3, {}),
    "video": (None, {}),
    "video.max_frames": (4, {}),
    "video.fps": (1.0, {}),
    "video.frame_multiple": (32, {}),
    "video.min_pixels": (40000, {}),
    "video.max_pixels": (20000, {}),
    "video.total_pixels": (50000, {}),
    "video.frame": ("<{seconds}><|image_pad|>", {}),
    "pair": (None, {}),
    "pair.prompt": ("{instruction}<q>{query}<D>{document}", {}),
    "pair.contents": ({kind: "." + one for kind, one in CONTENTS.items()}, {}),
    "instruction": (None, {}),
    "instruction.default": ("Search.", {}),
    "instruction.rules": (["strip"], {}),
    "instruction.prompt": ("{instruction} {text}", {}),
    "instruction.roles": (["document"], {"prompts": dict.fromkeys(("query", "document"), BASE["prompts"]["query"])}),
    "tasks": ({}, {}),
    "tasks.same.instruction": ("Find the other.", {}),
    "tasks.same.adapter": ("two", ADAPTED),
    "tasks.same.prompts": ({"query": "document"}, ADAPTED),
    "task": ("same", {}),
    "text_rules": (["strip"], {}),
    "pooling": ("mean", {}),
    "unpooled_tokens": (["<|endoftext|>"], {"pooling": "mean"}),
    "special_tokens": (False, {}),
    "added_tokens": (["cats"], {}),
    "buckets": (None, {}),
    "buckets.patches": (64, {}),
    "buckets.page_tokens": (64, {}),
    "buckets.text_tokens": (64, {}),
    "limits": (None, {}),
    "limits.image_bytes": (1000, {}),
    "limits.image_pixels": (1000, {}),
    "limits.text_bytes": (5, {}),
    "limits.text_tokens": (5, {}),
    "limits.tokens": (20, {}),
    "limits.role_tokens": ({"query": 5}, {}),
}


@pytest.fixture(scope="module")
def build(folder: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Preparer]:
    """A preparer of the base with changes by their dotted fields; its tokenizer adds a token of its own."""
    base = tmp_path_factory.mktemp("words")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    token = ("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{token[0]} $A", special_tokens=[token])
    tokenizer.save(str(base / "tokenizer.json"))

    def make(changes: dict[str, Any]) -> Preparer:
        preparation = json.loads(json.dumps({**recipe.served()["preparation"], **BASE}))
        for field, value in copy.deepcopy(changes).items():
            *above, name = field.split(".")
            section = preparation
            for one in above:
                section = section[int(one)] if one.isdigit() else section[one]
            section[name] = value
        (base / "recipe.json").write_text(json.dumps({"preparation": preparation}), encoding="utf-8")
        return Preparer(base)

    return make


def made(build: Callable[..., Preparer], changes: dict[str, Any]) -> list[bytes | str]:
    """Everything that is prepared, or only why nothing is."""
    try:
        return list(outcomes(build(changes)))
    except ValueError as refusal:
        return ["", str(refusal)]


def fields(cls: type[Any], above: str = "") -> Iterator[str]:
    """Dotted names of all fields, sections included; of a list, those of its first entry, by name, of one."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield f"{above}{field.name}"
        hint = hints[field.name]
        for kind in (hint, *typing.get_args(hint)):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                number = {tuple: "0.", dict: "same."}.get(typing.get_origin(hint), "")
                yield from fields(kind, f"{above}{field.name}.{number}")


def test_every_field_has_a_line() -> None:
    assert sorted(WORDS) == sorted(fields(Preparation))


@pytest.fixture(scope="module")
def unchanged(build: Callable[..., Preparer]) -> list[bytes | str]:
    return made(build, {})


@pytest.mark.parametrize("field", WORDS)
def test_a_field_decides_something(build: Callable[..., Preparer], unchanged: list[bytes | str], field: str) -> None:
    value, before = WORDS[field]
    found = made(build, before) if before else unchanged
    assert found[0] != ""
    assert made(build, {**before, field: value}) != found


def test_pooled_tokens_by_path(build: Callable[..., Preparer]) -> None:
    words = {"text": "mean", "image": "last", "video": "mean", "rerank": "last"}
    preparer = build({"pooling": words})
    rows = {TEXT: ITEMS[0], IMAGE: ITEMS[1], VIDEO: VIDEO_ITEMS[0]}
    for path, item in rows.items():
        pooled_T = preparer.item(item, Asked()).pooled_T
        assert pooled_T.sum() == (len(pooled_T) if words[path.name] == "mean" else 1)
    pooled_T = preparer.pair(preparer.side(ITEMS[0]), preparer.side(ITEMS[1]), Asked()).pooled_T
    assert pooled_T.tolist() == [0] * (len(pooled_T) - 1) + [1]
    assert not preparer.preparation.pools_last
    assert preparer.preparation.pooled(RERANK) == "last"


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_marks_say_which_tokens_are_pooled(build: Callable[..., Preparer], pooling: str) -> None:
    """As jina-embeddings-v4: of an image, from <|vision_start|> to <|vision_end|>."""
    span = "user {pooled}<|vision_start|><|image_pad|><|vision_end|>{/pooled}Describe it{augmentation}"
    prompts = {"query": {"text": "{text} {instruction}", "image": span}}
    row = build({"prompts": prompts, "images": None, "video": None, "pair": None, "pooling": pooling}).image(PAGES[0])
    assert row.visual_grid is not None
    first, rows, columns = row.visual_grid
    # The visual tokens, the one before and the one behind.
    length = rows * columns + 2
    wanted = np.zeros(len(row.input_ids_T))
    wanted[first - 1 : first - 1 + length] = [float(pooling == "mean")] * (length - 1) + [1]
    np.testing.assert_array_equal(row.pooled_T, wanted)


def test_several_images_stand_in_pairs_too(build: Callable[..., Preparer]) -> None:
    """As jina-reranker-m0: a document of several pages."""
    preparer = build({"pair.contents": EVERY})
    query, document = preparer.side(Item(b"cats")), preparer.side(Item(images=PAGES[:3]))
    row = preparer.pair(query, document, Asked())
    assert row.patches is not None
    assert row.patches.grids == tuple(preparer.image(page).patches.grids[0] for page in PAGES[:3])  # type: ignore[union-attr]
    is_image_T = row.input_ids_T == preparer.image_token_id
    assert np.count_nonzero(np.diff(is_image_T.astype(int)) == 1) == 3
    tensors, lengths = collate([row], preparer.preparation.buckets), preparer.lengths[RERANK]
    assert lengths.image_rows.largest >= tensors["patches"].shape[1]
    assert lengths.visual_tokens.largest >= tensors["visual_index"].shape[1]


def test_marks_around_each_image_are_kept(build: Callable[..., Preparer]) -> None:
    """Of images, from <|vision_start|> to <|vision_end|>, and nothing between or around them."""
    image = "page {pooled}<|vision_start|><|image_pad|><|vision_end|>{/pooled}"
    prompts = {"query": {"text": "{text} {instruction}", "images": "{images} Describe them{augmentation}"}}
    changes = {"prompts": prompts, "images.image": image, "video": None, "pair": None, "pooling": "mean"}
    row = build(changes).item(Item(images=PAGES[:2]), Asked())
    assert row.patches is not None
    assert row.pooled_T.sum() == sum(row.patches.visual_tokens) + 2 * 2


def test_texts_alone_need_no_image(build: Callable[..., Preparer]) -> None:
    """As jina-embeddings-v2 and -v3; a reranker of texts too."""
    changes: dict[str, Any] = {
        "image": None,
        "image_token": None,
        "images": None,
        "video": None,
        "positions": "sequential",
        "instruction": None,
        "tasks": {},
    }
    prompts = {"query": {"text": "{text}"}}
    pair = {"prompt": "{query}<D>{document}", "contents": {"text": "{text}"}}
    preparer = build({**changes, "augmentation": None, "prompts": prompts, "pair": pair})
    row = preparer.text(b"cats")
    assert row.patches is None
    rows = [preparer.pair(preparer.side(Item(b"cats")), preparer.side(Item(b"dogs")), Asked()), preparer.nothing()]
    for tensors in (collate([row], preparer.preparation.buckets), collate(rows, preparer.preparation.buckets)):
        assert not any(name.startswith(("patch", "visual")) for name in tensors)
    assert preparer.preparation.visual_paths == ()
    for path, lengths in preparer.lengths.items():
        assert path in (TEXT, RERANK)
        assert (tuple(lengths.visual_tokens), tuple(lengths.image_rows)) == ((0, 0), (0, 0))
    with pytest.raises(PreparationError, match="is an image, which this retriever does not take"):
        preparer.image(PAGES[0])
    with pytest.raises(ValueError, match="takes texts alone"):
        _ = preparer.preparation.page_policy


def test_positions_may_ignore_that_images_have_rows(build: Callable[..., Preparer]) -> None:
    """As GME and LamRA: 0, 1, 2, ... for visual tokens too, on all three axes."""
    row, by_grid = (build({"positions": word}).image(PAGES[0]) for word in ("sequential", "mrope"))
    wanted = np.broadcast_to(np.arange(len(row.input_ids_T)), (3, len(row.input_ids_T)))
    np.testing.assert_array_equal(row.positions_3T, wanted)
    assert row.visual_grid == by_grid.visual_grid
    assert row.visual_grid is not None
    assert by_grid.patches is not None
    token = int(row.input_ids_T[row.visual_grid[0]])
    of_grids = mrope_positions(row.input_ids_T, token, list(by_grid.patches.grids))
    np.testing.assert_array_equal(by_grid.positions_3T, of_grids)
    assert (by_grid.positions_3T != wanted).any()
