"""The tensors of a request to its items."""

from __future__ import annotations

import numpy as np
import pytest

from periscope_runtime.asked import Asked
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.requests import Inputs, dimensions, items, pairs


def column(*values: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.object_]]:
    return np.array(values, object).reshape(-1, 1)


def line(*values: bytes) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return np.array(values, object)


def test_texts() -> None:
    inputs = {"TEXT": column(b"a", b""), "ROLE": column(b"query", b"document")}
    assert items(inputs) == [(Item(text=b"a"), Asked("query")), (Item(text=b""), Asked("document"))]


def test_pages_and_the_texts_beside_them() -> None:
    inputs = {"IMAGE": column(b"1", b"2"), "TEXT": column(b"", b"a"), "INSTRUCTION": column(b"i", b"j")}
    assert items(inputs) == [
        (Item(images=(b"1",)), Asked(instruction="i")),
        (Item(text=b"a", images=(b"2",)), Asked(instruction="j")),
    ]


def test_several_images_fill_a_row_from_its_beginning() -> None:
    inputs = {"IMAGE": np.array([[b"1", b"2", b"3"], [b"4", b"", b""], [b"", b"", b""], [b"5", b"", b"6"]], object)}
    wanted = [(b"1", b"2", b"3"), (b"4",), (b"",), (b"5", b"", b"6")]
    assert items(inputs) == [(Item(images=images), Asked()) for images in wanted]


def test_candidates_of_several_images() -> None:
    inputs = {
        "QUERY_IMAGE": line(b"q", b"r", b""),
        "TEXT": line(b"", b"b", b"c"),
        "IMAGE": line(b"1", b"2", b"3"),
        "IMAGE_COUNTS": np.array([2, 0, 1], np.int32),
    }
    found = pairs(inputs, most=3)
    assert found.query == Item(images=(b"q", b"r"))
    assert found.documents == [Item(images=(b"1", b"2")), Item(b"b"), Item(b"c", (b"3",))]


def test_videos() -> None:
    inputs = {"VIDEO": np.array([[b"1", b"2"]], object), "TASK": column(b"t")}
    assert items(inputs) == [(Item(video=[b"1", b"2"]), Asked(task="t"))]


def test_an_instruction_that_is_no_text_is_refused() -> None:
    with pytest.raises(PreparationError, match="UTF-8"):
        items({"TEXT": column(b"a"), "INSTRUCTION": column(b"\xff")})


def test_pairs() -> None:
    inputs = {
        "QUERY_TEXT": line(b"q"),
        "QUERY_IMAGE": line(b""),
        "TEXT": line(b"a", b"", b"c"),
        "IMAGE": line(b"", b"2", b"3"),
        "VIDEO": line(b"f", b"g"),
        "VIDEO_FRAMES": np.array([0, 2, 0], np.int32),
        "INSTRUCTION": line(b"i"),
    }
    found = pairs(inputs, most=3)
    assert found.query == Item(text=b"q")
    assert found.documents == [
        Item(text=b"a"),
        Item(images=(b"2",), video=[b"f", b"g"]),
        Item(text=b"c", images=(b"3",)),
    ]
    assert found.asked == Asked(instruction="i")


def test_a_query_may_be_a_video() -> None:
    assert pairs({"QUERY_VIDEO": line(b"f", b"g"), "TEXT": line(b"a")}, most=1).query == Item(video=[b"f", b"g"])


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"TEXT": line(b"a"), "IMAGE": line(b"1", b"2")}, "candidates of different number .TEXT 1, IMAGE 2."),
        ({}, "none"),
        ({"TEXT": line()}, "TEXT 0"),
        ({"TEXT": line(b"a", b"b", b"c")}, "has 3 candidates, above the limit of 2"),
        ({"VIDEO": line(b"f"), "VIDEO_FRAMES": np.array([0, 2], np.int32)}, "1 frames in VIDEO"),
        ({"VIDEO": line(b"f"), "TEXT": line(b"a")}, "1 frames in VIDEO"),
        ({"IMAGE": line(b"1"), "IMAGE_COUNTS": np.array([2], np.int32)}, "1 images in IMAGE and counts .2."),
        ({"TEXT": line(b"a"), "IMAGE_COUNTS": np.array([0, 0], np.int32)}, "TEXT 1, IMAGE_COUNTS 2"),
        ({"VIDEO": line(b"f"), "VIDEO_FRAMES": np.array([2, -1], np.int32)}, "1 frames in VIDEO"),
    ],
)
def test_candidates_that_do_not_add_up(inputs: Inputs, problem: str) -> None:
    with pytest.raises(PreparationError, match=problem):
        pairs({"QUERY_TEXT": line(b"q"), **inputs}, most=2)


def test_dimensions() -> None:
    assert dimensions({}, 64, 2048) == 2048
    assert dimensions({"DIMENSIONS": np.array([[128], [128]], np.int32)}, 64, 2048) == 128
    for wrong in (63, 2049, -1):
        with pytest.raises(PreparationError, match=f"asks for {wrong} dimensions. Ask for 64 to 2048"):
            dimensions({"DIMENSIONS": np.array([[wrong]], np.int32)}, 64, 2048)
    with pytest.raises(PreparationError, match="several"):
        dimensions({"DIMENSIONS": np.array([[128], [256]], np.int32)}, 64, 2048)
