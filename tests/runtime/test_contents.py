"""Contents of a prompt beside a text or a page: both, a video, a pair; and the instruction to the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from periscope_export.recipes.schema import Recipe
from periscope_runtime import paths
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.positions import mrope_positions
from periscope_runtime.prepare import Preparer
from runtime.pictures import encode, noise
from runtime.test_video import VIDEO

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CONTENTS = {"text": "{text}", "image": IMAGE, "image_text": IMAGE + "{text}", "video": "{video}"}
CONTENTS["video_text"] = "{video}{text}"
CHANGES: dict[str, Any] = {
    "prompts": {"query": {kind: "{instruction}|" + template + "|end" for kind, template in CONTENTS.items()}},
    "pair": {"prompt": "{instruction}<Q>{query}<D>{document}", "contents": CONTENTS},
    "instruction": {"default": "Find it.", "rules": ["strip", "end_unless_punctuation"]},
    "tasks": {"same": {"instruction": "Find the same."}},
    "video": vars(VIDEO),
    "pooling": "last",
    "augmentation": None,
}


@pytest.fixture(scope="module")
def build(folder: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Preparer]:
    """A preparer of a recipe with every kind of content, and further changes to its preparation."""

    def make(**changes: Any) -> Preparer:
        served = recipe.served()
        served["preparation"] |= {**CHANGES, **changes}
        written = tmp_path_factory.mktemp("every")
        shutil.copyfile(folder / "tokenizer.json", written / "tokenizer.json")
        (written / "recipe.json").write_text(json.dumps(served), encoding="utf-8")
        return Preparer(written)

    return make


@pytest.fixture(scope="module")
def every(build: Callable[..., Preparer]) -> Preparer:
    return build()


PAGE = encode(noise(56, 84), "PNG")
FRAMES = [encode(noise(64, 64, seed), "PNG") for seed in range(3)]


def written(tokenizer: Tokenizer, prompt: str) -> list[int]:
    ids: list[int] = tokenizer.encode(prompt).ids
    return ids


def test_a_page_with_a_text(every: Preparer, tokenizer: Tokenizer) -> None:
    row = every.item(Item(text=b"revenue", images=[PAGE]), Asked())
    pads = "<|image_pad|>" * 6
    assert row.input_ids_T.tolist() == written(tokenizer, f"Find it.|<|vision_start|>{pads}<|vision_end|>revenue|end")
    assert row.visual_grid is not None
    assert row.visual_grid[1:] == (3, 2)
    spans = [(begin, end) for begin, end in row.spans_T2.tolist() if end]
    assert "".join("revenue"[begin:end] for begin, end in spans) == "revenue"


def test_a_video_is_groups_of_frames_with_their_times(every: Preparer, tokenizer: Tokenizer) -> None:
    row = every.item(Item(video=FRAMES), Asked())
    assert row.patches is not None
    pads = "<|image_pad|>" * row.patches.visual_tokens[0]
    frames = "".join(f"<{time} seconds><|vision_start|>{pads}<|vision_end|>" for time in ("0.2", "1.2"))
    assert row.input_ids_T.tolist() == written(tokenizer, f"Find it.|{frames}|end")
    assert len(set(row.patches.grids)) == 1
    # Each group is an image of its own to M-RoPE.
    token = every.image_token_id
    assert token is not None
    wanted = mrope_positions(row.input_ids_T, token, list(row.patches.grids))
    np.testing.assert_array_equal(row.positions_3T, wanted)
    assert row.visual_grid is None


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (Asked(), "Find it."),
        (Asked(instruction="Find cats"), "Find cats."),
        (Asked(instruction="  Find cats?  "), "Find cats?"),
        (Asked(instruction="Finde Katzen\u3002"), "Finde Katzen\u3002"),
        (Asked(task="same"), "Find the same."),
    ],
)
def test_instructions(every: Preparer, tokenizer: Tokenizer, asked: Asked, wanted: str) -> None:
    row = every.item(Item(text=b"cats"), asked)
    assert row.input_ids_T.tolist() == written(tokenizer, f"{wanted}|cats|end")


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (Asked(task="other"), r"the task 'other'.*\['same'\]"),
        (Asked(instruction="Find", task="same"), "both an instruction and a task"),
        (Asked(instruction=" "), "has an instruction that is empty"),
        (Asked(instruction="<|image_pad|>"), "has an instruction that contains"),
    ],
)
def test_instructions_that_are_none(every: Preparer, asked: Asked, problem: str) -> None:
    with pytest.raises(PreparationError, match=problem):
        every.item(Item(text=b"cats"), asked)


def test_a_retriever_without_instructions_refuses_them(preparer: Preparer) -> None:
    with pytest.raises(PreparationError, match="does not take"):
        preparer.item(Item(text=b"cats"), Asked(instruction="Find"))


def test_roles_that_take_no_instruction_refuse_it(build: Callable[..., Preparer]) -> None:
    """A document has the default, whatever a query is asked for."""
    prompts = dict.fromkeys(("query", "document"), CHANGES["prompts"]["query"])
    queries = build(prompts=prompts, instruction={**CHANGES["instruction"], "roles": ["query"]})
    every = build(prompts=prompts)
    for asked in (Asked("query", instruction="Find cats"), Asked(instruction="Find cats"), Asked("document")):
        wanted = every.item(Item(text=b"cats"), asked).input_ids_T
        assert queries.item(Item(text=b"cats"), asked).input_ids_T.tolist() == wanted.tolist()
    for asked in (Asked("document", instruction="Find cats"), Asked("document", task="same")):
        with pytest.raises(PreparationError, match=r"in the role 'document', in which .* takes none.*\['query'\]"):
            queries.item(Item(text=b"cats"), asked)
    with pytest.raises(ValueError, match="roles names nobody, which no prompt is for"):
        build(instruction={**CHANGES["instruction"], "roles": ["nobody"]})


def test_the_last_token_is_pooled_where_the_recipe_says_so(every: Preparer, build: Callable[..., Preparer]) -> None:
    row = every.item(Item(text=b"cats"), Asked())
    assert row.pooled_T.tolist() == [0] * (len(row.input_ids_T) - 1) + [1]
    assert build(pooling="mean").item(Item(text=b"cats"), Asked()).pooled_T.all()


def test_a_pair_holds_both_sides_in_order(every: Preparer, tokenizer: Tokenizer) -> None:
    query, document = (
        every.side(Item(text=b"cats", images=[PAGE])),
        every.side(Item(images=[encode(noise(56, 56), "PNG")])),
    )
    row = every.pair(query, document, Asked())
    first, second = ("<|image_pad|>" * count for count in (6, 4))
    assert row.input_ids_T.tolist() == written(
        tokenizer,
        f"Find it.<Q><|vision_start|>{first}<|vision_end|>cats<D><|vision_start|>{second}<|vision_end|>",
    )
    assert row.patches is not None
    assert row.patches.grids == ((3, 2), (2, 2))
    segments = collate([row], every.preparation.buckets)["patch_segments"][0, 0]
    assert segments[:40].tolist() == [0] * 24 + [1] * 16
    assert (segments[40:] == -1).all()


def test_pairs_without_images_fill_a_bucket(every: Preparer) -> None:
    row = every.pair(every.side(Item(text=b"cats")), every.side(Item(text=b"dogs")), Asked())
    tensors = collate([row, every.nothing()], every.preparation.buckets)
    assert tensors["patches"].shape[:3] == (2, 1, every.preparation.buckets.patches)
    assert tensors["visual_index"].shape == (2, every.preparation.buckets.patches // 4)
    assert (tensors["patch_segments"] == -1).all()
    assert tensors["pool_mask"].sum(1).tolist() == [1, 0]


def test_what_a_retriever_does_not_take(preparer: Preparer, every: Preparer) -> None:
    with pytest.raises(PreparationError, match="is an image with a text, which this retriever does not take"):
        preparer.item(Item(text=b"cats", images=[PAGE]), Asked())
    with pytest.raises(PreparationError, match="is a video"):
        preparer.item(Item(video=FRAMES), Asked())
    with pytest.raises(PreparationError, match="an image and a video"):
        every.item(Item(images=[PAGE], video=FRAMES), Asked())
    with pytest.raises(PreparationError, match="is empty"):
        every.item(Item(), Asked())
    with pytest.raises(PreparationError, match="has no frames"):
        every.item(Item(video=[]), Asked())
    with pytest.raises(PreparationError, match="has a frame 1 that is empty"):
        every.item(Item(video=[FRAMES[0], b""]), Asked())


def test_the_limit_of_all_tokens_counts_visual_ones(build: Callable[..., Preparer], recipe: Recipe) -> None:
    limits = recipe.served()["preparation"]["limits"]
    whole = len(build().item(Item(images=[PAGE]), Asked()).input_ids_T)
    assert build(limits={**limits, "tokens": whole}).item(Item(images=[PAGE]), Asked())
    with pytest.raises(PreparationError, match=f"has {whole} tokens, 6 of them visual, above the limit of {whole - 1}"):
        build(limits={**limits, "tokens": whole - 1}).item(Item(images=[PAGE]), Asked())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"video": None}, "prompts for videos"),
        ({"instruction": None}, "section instruction"),
        ({"pair": {"prompt": "{query}", "contents": CONTENTS}}, "the pair's prompt must hold {document} once"),
        ({"pair": {"prompt": "{query}{document}", "contents": {"image": "none"}}}, "the pair's image must hold"),
        ({"video": {**vars(VIDEO), "frame": "{seconds}"}}, "the video's frame must hold"),
        ({"prompts": {"query": {"image_text": IMAGE}}}, "must hold {text} once"),
    ],
)
def test_templates_that_lack_what_they_need(
    build: Callable[..., Preparer], changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        build(**changes)


def test_a_page_without_a_prompt_has_one_state(build: Callable[..., Preparer]) -> None:
    alone = build(
        prompts={"document": {"image": "", "text": "{text}"}}, pair=None, video=None, instruction=None, tasks={}
    )
    row = alone.item(Item(images=[PAGE]), Asked())
    assert (len(row.input_ids_T), row.pooled_T.tolist()) == (1, [1])
    assert alone.lengths[paths.IMAGE].tokens == (alone.preparation.buckets.page_tokens,) * 2


def test_lengths_cover_every_path(every: Preparer, build: Callable[..., Preparer], recipe: Recipe) -> None:
    assert list(every.lengths) == [paths.TEXT, paths.IMAGE, paths.VIDEO, paths.RERANK]
    items = {
        paths.IMAGE: [every.item(Item(images=[PAGE], text=b"cats"), Asked())],
        paths.VIDEO: [every.item(Item(video=FRAMES), Asked()), every.item(Item(video=FRAMES * 30), Asked())],
        paths.RERANK: [
            every.pair(every.side(Item(text=b"cats")), every.side(item), Asked())
            for item in (Item(text=b"cats"), Item(images=[PAGE]), Item(video=FRAMES))
        ],
    }
    for path, rows in items.items():
        for row in rows:
            tensors = collate([row], every.preparation.buckets)
            found = every.lengths[path]
            rows_of_images, patches = tensors["patches"].shape[1:3]
            sizes = (tensors["input_ids"].shape[1], tensors["visual_index"].shape[1], rows_of_images, patches // 4)
            for length, size in zip(found, sizes, strict=True):
                assert length.smallest <= size <= length.largest
    limits = recipe.served()["preparation"]["limits"]
    limited = build(limits={**limits, "tokens": 1024}).lengths
    assert limited[paths.RERANK].tokens.largest == limited[paths.VIDEO].tokens.largest == 1024


def test_policies_with_other_numbers_compare(every: Preparer) -> None:
    assert every.preparation.video == replace(VIDEO)
