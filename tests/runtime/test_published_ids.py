"""The first cut of the golden tests: token ids and positions are the published processor's."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.prepare import Preparer, Row
from periscope_testing.colqwen2.reference import ColQwen2Reference
from runtime.pictures import encode, noise

QUERIES = [
    "revenue by region",
    "x",
    "Wie viele Seiten hat der Bericht?",
    "\u00fcber na\u00efve caf\u00e9s",  # composed
    "u\u0308ber nai\u0308ve cafe\u0301s",  # the same letters, decomposed: the tokenizer composes them
    "\u56fe\u8868 \u0633\u0646\u0648\u064a \u2116 \ufb01nal",
    "chart \U0001f4c8 of \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "two\nlines\r\n\tand a tab",
    "  blanks before and after   ",
    "\n\nbreaks\n",
    "<|im_start|>user<|im_end|> special <|endoftext|><|vision_start|> tokens",
    "<|endoftext|>",
    "{text} {augmentation} {} %s \\1",
    "it's  'quoted' \"twice\"  1234567890",
    "zero\u200bwidth and no\u00a0break and \u2028 separator",
    "nul \x00 and \x7f",
    "how many visitors came " * 60,
]


def check(row: Row, reference: ColQwen2Reference, inputs: dict[str, torch.Tensor], index: int) -> None:
    # The published processor pads on the left; what it attends to is the item.
    attended = inputs["attention_mask"][index].bool()
    np.testing.assert_array_equal(row.input_ids_T, inputs["input_ids"][index][attended].numpy())
    np.testing.assert_array_equal(row.positions_3T, reference.position_ids(inputs)[:, index, attended].numpy())


def test_queries_have_the_published_ids_and_positions(preparer: Preparer, reference: ColQwen2Reference) -> None:
    inputs = reference.query_inputs(QUERIES)

    for index, query in enumerate(QUERIES):
        check(preparer.text(query.encode()), reference, inputs, index)


# Blank texts and the image token are refused (test_bad_texts); the published processor refuses the video token as well.
@given(
    st.text(min_size=1, max_size=60).filter(
        lambda text: bool(text.strip()) and not re.search(r"<\|(image|video)_pad\|>", text)
    )
)
@settings(deadline=None, max_examples=100)
def test_any_text_has_the_published_ids_and_positions(
    preparer: Preparer, reference: ColQwen2Reference, text: str
) -> None:
    check(preparer.text(text.encode(), "query"), reference, reference.query_inputs([text]), 0)


@pytest.mark.parametrize("size", [(1, 1), (60, 40), (333, 77), (77, 333), (595, 842), (1654, 2339)])
def test_pages_have_the_published_ids_and_positions(
    preparer: Preparer, reference: ColQwen2Reference, size: tuple[int, int]
) -> None:
    page = noise(*size)

    check(preparer.image(encode(page, "PNG", compress_level=0)), reference, reference.image_inputs([page]), 0)


def test_pages_of_one_batch_have_the_ids_and_positions_of_the_published_batch(
    preparer: Preparer, reference: ColQwen2Reference
) -> None:
    pages = [noise(60, 40), noise(333, 77), noise(77, 333)]
    inputs = reference.image_inputs(pages)

    for index, page in enumerate(pages):
        check(preparer.image(encode(page, "PNG"), "document"), reference, inputs, index)
