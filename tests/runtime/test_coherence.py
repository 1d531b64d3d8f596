"""Fields of a preparation that do not go together: each is named, all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from periscope_runtime.prepare import Preparer
from runtime.test_words import BUDGET, DUMMY, TILED_PAGES, build, tiles

__all__ = ["build"]

# By changes of what a recipe may be: what is said of them.
MISFITS: list[tuple[dict[str, Any], list[str]]] = [
    ({"image": None}, ["the section image need each other", "image_token needs the section image"]),
    ({"video": None}, ["the section video need each other"]),
    ({"image_token": None}, ["positions mrope needs image_token", "must hold the image token once"]),
    ({"image.max_aspect_ratio": None}, ["area needs max_aspect_ratio"]),
    ({"pooling": {"text": "mean", "image": "last"}}, ["pooling lacks rerank, video"]),
    ({"pair": None, "pooling": dict.fromkeys(("text", "image", "video", "rerank"), "last")}, ["pooling names rerank"]),
    ({"images": None}, ["prompts for several images and the section images need each other"]),
    ({"images.most": 1}, ["images.most is 1: it has to be 2 at least"]),
    (
        {"images.image": "{pooled}<|vision_end|>"},
        ["images.image must close each", "images.image must hold <|image_pad|>"],
    ),
    ({"prompts": {"query": {"images": "<|image_pad|>"}}}, ["must hold {images} once", "<|image_pad|> not at all"]),
    ({"instruction": None}, ["{instruction} and the section instruction need each other"]),
    ({"instruction.prompt": "{text}"}, ["exclude each other", "instruction.prompt must hold {instruction} once"]),
    ({"prompts": {"query": {"text": "{pooled}{text}"}}, "pair": None}, ["must close each {pooled} by {/pooled}"]),
    ({"prompts": {"query": {"text": "{text}"}}, "pair": None}, ["augmentation needs", "section image need each"]),
    (
        {"image.tiles": {"side": 28, "closest_ratio": {"max_tiles": 2}}},
        ["tiles need positions sequential", "the section video excludes them"],
    ),
    (
        tiles(side=30, any_resolution={"resolutions": [[56, 30]]}),
        ["the resolution 56 x 30 is no grid of tiles of 30 pixels"],
    ),
    (
        {
            "tasks": {"same": {"instruction": "a", "prompts": {"query": "nobody"}}, "other": {"adapter": "b"}},
            "task": "c",
        },
        [
            "task is 'c', which is none of the tasks",
            "tasks.same names the roles nobody, which no prompt is for",
            "tasks.same.prompts: the role 'nobody' has none for image, image_text, images",
            "tasks same have no adapter, where others have one",
        ],
    ),
    (
        {
            "tasks": {"same": {"instruction": {"query": "a"}, "adapter": {"query": "b"}}},
            "prompts": {"query": {"text": "{text}", "image": "<|image_pad|>"}},
            "instruction.prompt": "{instruction}{text}",
        },
        [
            "an instruction by role need a prompt with a text for each kind of the role 'query'",
            "tasks with adapters need task",
            "adapters by role and the section pair exclude each other",
        ],
    ),
    (
        {"prompts": {"query": {"image": ""}}, "pair": None, "tasks": {"a": {"adapter": "a"}, "b": {"adapter": "b"}}},
        ["several adapters need a prompt for images"],
    ),
    (
        {"instruction": None, "tasks": {"a": {"instruction": "b"}}},
        ["tasks with an instruction need the section instruction"],
    ),
    ({"video.frame_multiple": None}, ["total_pixels of video need each other, and there is no frame_multiple"]),
    ({"video.fps": None}, ["with {seconds} needs fps"]),
    ({"video.frame": "<|image_pad|>"}, ["without {seconds} needs no fps", "need positions sequential"]),
    (
        {"constant_image": DUMMY["constant_image"]},
        ["the section constant_image and a text's prompt with {constant_image}"],
    ),
    ({"prompts": DUMMY["prompts"]}, ["the section constant_image and a text's prompt with {constant_image} need each"]),
    (
        {**DUMMY, "prompts": {"query": {"text": "{text}", "image": "{constant_image}<|image_pad|>"}}},
        ["{constant_image} is for prompts of texts alone", "need each other"],
    ),
    (
        {**DUMMY, "constant_image": {"width": 0, "height": 28, "colour": [0, 0, 300]}},
        ["width of constant_image is 0", "the colour (0, 0, 300) of constant_image is no RGB colour"],
    ),
    (
        {**DUMMY, "constant_image": {"width": 30, "height": 28}},
        ["constant_image has 30 x 28 pixels, and a visual token has 28: both have to be multiples of 28"],
    ),
    (
        {
            **tiles(**BUDGET),
            **{name: words for name, words in DUMMY.items() if name != "prompts"},
            "prompts": {"query": {**TILED_PAGES["prompts"]["query"], "text": DUMMY["prompts"]["query"]["text"]}},
        },
        ["constant_image and tiles exclude each other"],
    ),
    ({"buckets.patches": 0, "limits.tokens": 0, "video.fps": 0.0}, ["patches is 0", "tokens is 0", "fps is 0.0"]),
    ({"limits.role_tokens": {"query": 0}}, ["role_tokens.query is 0: it has to be 1 at least"]),
    ({"limits.role_tokens": {"page": 9}}, ["limits.role_tokens names page, which no prompt is for"]),
]


@pytest.mark.parametrize(("changes", "problems"), MISFITS)
def test_fields_that_do_not_go_together_are_named_at_once(
    build: Callable[..., Preparer], changes: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"^recipe\.json: ") as raised:
        build(changes)
    for problem in problems:
        assert problem in str(raised.value)
