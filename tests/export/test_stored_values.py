"""The one of a checkpoint's processor files that counts, beside transformers; and limits that are not taken unasked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from periscope_export.checkpoint.reading import Checkpoint
from periscope_export.errors import ExportError
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.overrides import resolve
from periscope_testing.torchvision_operators import declare_torchvision_operators

COLQWEN2 = load_recipe("colqwen2")
KIND = {"image_processor_type": "Qwen2VLImageProcessor"}
STALE = {**KIND, "min_pixels": 3136, "max_pixels": 602112}
NEW = {"image_processor": {**KIND, "size": {"shortest_edge": 784, "longest_edge": 50176}}}


def checkpoint(*folders: Path) -> Checkpoint:
    nothing: Any = None
    return Checkpoint(nothing, {}, "one", folders)


def folder(path: Path, **files: dict[str, Any]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def pixels(files: dict[str, dict[str, Any]]) -> tuple[int | None, int | None]:
    image = resolve(COLQWEN2, lambda name: files.get(name.removesuffix(".json")))[0].preparation.page_policy
    return image.min_pixels, image.max_pixels


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": STALE, "processor_config": NEW},
        {"preprocessor_config": STALE, "processor_config": {"processor_class": "Qwen2VLProcessor"}},
        {"processor_config": NEW},
        {"preprocessor_config": {**KIND, "size": {"shortest_edge": 784, "longest_edge": 1003520}}},
    ],
)
def test_the_limits_are_those_that_transformers_reads(files: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    declare_torchvision_operators()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = Qwen2VLImageProcessorPil.from_pretrained(folder(tmp_path / "one", **files)).size
    assert pixels(files) == (size["shortest_edge"], size["longest_edge"])


def test_what_an_older_file_says_otherwise_is_told(tmp_path: Path) -> None:
    one = checkpoint(folder(tmp_path / "one", preprocessor_config={**STALE, "do_resize": False}, processor_config=NEW))
    recipe, changes = resolve(COLQWEN2, one.json)
    assert recipe.preparation.page_policy.max_pixels == 50176
    told = [line for line in changes if "does not count" in line]
    assert told[1] == (
        "preprocessor_config.json:max_pixels is 602112 and does not count, as in transformers 5: "
        "processor_config.json:image_processor.size.longest_edge, which comes first, is 50176"
    )
    assert told[2] == (
        "preprocessor_config.json:do_resize is False and does not count, as in transformers 5: "
        "processor_config.json, which comes first, has none"
    )
    assert len(told) == 3


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_reads_processors_by_their_sections(name: str) -> None:
    """A file by its name would be read where it does not count."""
    recipe = load_recipe(name)
    sources = [source for value in recipe.checkpoint_values.values() for source in value.sources]
    sources += recipe.checkpoint_requires
    assert any(source.startswith("image_processor:") for source in sources)
    assert not [source for source in sources if re.match(r"(video_)?preprocessor_config|.*:(image|video)_proc", source)]


def test_a_stale_video_file_neither_counts_nor_stops(tmp_path: Path) -> None:
    files: dict[str, dict[str, Any]] = {"video_preprocessor_config": {"image_mean": [0.1, 0.2, 0.3]}}
    files["processor_config"] = {"video_processor": {"image_mean": [0.5, 0.5, 0.5]}}
    one = checkpoint(folder(tmp_path / "one", **files))
    _, changes = resolve(load_recipe("qwen3_vl_embedding"), one.json)
    assert [line.split(" is ")[0] for line in changes] == ["video_preprocessor_config.json:image_mean"]
    files["processor_config"] = {}
    with pytest.raises(ExportError, match=r"video_preprocessor_config.json:image_mean is \[0.1, 0.2, 0.3\]"):
        resolve(load_recipe("qwen3_vl_embedding"), checkpoint(folder(tmp_path / "two", **files)).json)


def test_a_processor_comes_whole_from_one_folder(tmp_path: Path) -> None:
    """Newer files of the base do not beat those of the adapter."""
    adapter = folder(tmp_path / "adapter", preprocessor_config=STALE)
    base = folder(tmp_path / "base", processor_config={**NEW, "query_prefix": "Find: "}, tokenizer={})
    one = checkpoint(adapter, base)
    recipe, changes = resolve(COLQWEN2, one.json, note=one.processor_note)
    assert (recipe.preparation.page_policy.max_pixels, changes) == (602112, [])
    assert one.file("tokenizer.json") == base / "tokenizer.json"


@pytest.mark.parametrize(
    ("tokens", "limit", "counting"),
    [(64, 602112, 50176), (768, 200704, 200704), (768, 12845056, 602112), (256, 0, 200704)],
)
def test_of_two_limits_the_lower_counts(tokens: int, limit: int, counting: int) -> None:
    """In visual tokens in one file, in pixels in the other where it has any; neither asks where the lower does not."""
    older = {**KIND, "max_pixels": limit} if limit else KIND
    files: dict[str, dict[str, Any]] = {"processor_config": {"max_num_visual_tokens": tokens}}
    assert pixels({**files, "preprocessor_config": older}) == (3136, counting)


def test_a_limit_in_visual_tokens_is_named_by_its_place() -> None:
    _, changes = resolve(COLQWEN2, {"processor_config.json": {"max_num_visual_tokens": 64}}.get)
    assert changes == [
        "the checkpoint says otherwise: preparation.image.max_pixels: 602112 -> 50176 "
        "(processor_config.json:max_num_visual_tokens x 784)"
    ]
    with pytest.raises(ExportError, match=r"max_pixels.*'many' \(processor_config.json:max_num_visual_tokens\)"):
        resolve(COLQWEN2, {"processor_config.json": {"max_num_visual_tokens": "many"}}.get)


LARGE = {**KIND, "min_pixels": 3136, "max_pixels": 12845056}


def test_a_base_s_limit_is_not_taken_unasked(tmp_path: Path) -> None:
    """16384 visual tokens a page, of an adapter that was saved without its processor."""
    one = checkpoint(folder(tmp_path / "adapter"), folder(tmp_path / "base", preprocessor_config=LARGE))
    with pytest.raises(ExportError) as raised:
        resolve(COLQWEN2, one.json, note=one.processor_note)
    assert str(raised.value) == (
        "recipe colqwen2: preprocessor_config.json:max_pixels is 12845056, 21 times the 602112 of the recipe. "
        "Say --set preparation.image.max_pixels=602112 to stay with the recipe, or "
        "--set preparation.image.max_pixels=12845056 to follow the checkpoint "
        "(the adapter brings no processor files, these are its base's)."
    )
    for asked in (602112, 12845056):
        recipe, changes = resolve(COLQWEN2, one.json, {"preparation.image.max_pixels": asked}, one.processor_note)
        assert recipe.preparation.page_policy.max_pixels == asked
        assert changes[0] == one.processor_note


@pytest.mark.parametrize(("limit", "asks"), [(1003520, False), (2408448, False), (2408449, True)])
def test_a_limit_in_reach_of_the_recipe_s_is_taken(limit: int, asks: bool) -> None:
    files = {"preprocessor_config": {**STALE, "max_pixels": limit}}
    if asks:
        with pytest.raises(ExportError, match="4 times the 602112"):
            pixels(files)
    else:
        assert pixels(files)[1] == limit


@pytest.mark.parametrize(("prefix", "prompt"), [("search:", "Query: search: {text}"), ("", "Query: {text}")])
def test_what_follows_a_prefix_follows_no_empty_one(prefix: str, prompt: str) -> None:
    stored = {"processor_config.json": {"query_prefix": prefix}}
    recipe, _ = resolve(load_recipe("nemotron_colembed_v2"), stored.get)
    assert prompt in recipe.preparation.prompts["query"]["text"]


def test_values_that_the_recipe_cannot_hold_are_the_checkpoint_s() -> None:
    with pytest.raises(
        ExportError, match=r"does not fit the checkpoint: .*max_pixels: Input should be a valid integer"
    ):
        pixels({"preprocessor_config": {**STALE, "max_pixels": "many"}})
