"""The origin of tokens: characters of a text, and the grid of a page's visual tokens."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import Preparation
from periscope_testing.colqwen2.reference import ColQwen2Reference
from runtime.pictures import encode, noise
from runtime.prompting import text_prompt

BEFORE, AFTER = "Query: ", "<|endoftext|>" * 10


def slow_spans(tokenizer: Tokenizer, ids: list[int], text: str) -> list[list[int]]:
    """Byte by byte: every character of a byte-level token is one byte of the prompt, in order."""
    whole = BEFORE + text + AFTER
    character_of_byte = [place for place, character in enumerate(whole) for _ in character.encode()]
    spans, at = [], 0
    for token in ids:
        length = len(tokenizer.id_to_token(token) or "")
        covered = [place - len(BEFORE) for place in character_of_byte[at : at + length]]
        inside = [place for place in covered if 0 <= place < len(text)]
        spans.append([min(inside), max(inside) + 1] if inside else [0, 0])
        at += length
    assert at == len(character_of_byte)
    return spans


TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(" aeé图表🙂👩\u200d\u3000<|>")), min_size=1, max_size=40
).filter(lambda text: bool(text.strip()) and "<|image_pad|>" not in text)


@given(TEXTS)
@settings(deadline=None, max_examples=150)
def test_spans_are_those_of_the_bytes(prompts: PromptEncoder, tokenizer: Tokenizer, text: str) -> None:
    text = unicodedata.normalize("NFC", text)

    ids, spans, *_ = text_prompt(prompts, text, None)

    assert spans.tolist() == slow_spans(tokenizer, ids.tolist(), text)
    assert spans.dtype == np.int32


@given(TEXTS)
@settings(deadline=None, max_examples=50)
def test_every_word_has_a_token(prompts: PromptEncoder, text: str) -> None:
    """Also where letters are composed from several characters, of which then only the first is in a span."""
    spans = text_prompt(prompts, text, None).spans_T2.tolist()

    for word in re.finditer(r"\S+", text):
        assert any(begin < word.end() and end > word.start() for begin, end in spans)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("revenue by region", ["revenue", " by", " region"]),  # the space of the prompt is not of the text
        ("  revenue ", [" ", " revenue", " "]),
        ("caf\u00e9", ["c", "a", "f", "\u00e9", "\u00e9"]),  # two bytes, two tokens, one character
        ("cafe\u0301", ["c", "a", "f", "e", "e"]),  # decomposed: composed before it is cut, so the accent has no token
        ("\u1112\u1161\u11ab x", ["\u1112"] * 3 + [" ", "x"]),  # a Korean syllable of three letters
        ("\u56fe\u8868", ["\u56fe"] * 3 + ["\u8868"] * 3),
        ("\U0001f642 ok", ["\U0001f642"] * 4 + [" ", "o", "k"]),  # a code point is one character, not two
        ("a<|endoftext|>b", ["a", "<|endoftext|>", "b"]),  # a special token that the caller wrote is his text
        ("{text}{augmentation}", None),
    ],
)
def test_spans_of_known_texts(prompts: PromptEncoder, text: str, pieces: list[str] | None) -> None:
    spans = text_prompt(prompts, text, None).spans_T2

    found = [text[begin:end] for begin, end in spans.tolist() if end]
    assert "".join(found) == text if pieces is None else found == pieces
    # The prompt's three tokens before (the fourth is the space that the first word takes along) and ten after.
    assert not spans[:3].any()
    assert not spans[-10:].any()


def test_a_tokenizer_that_trims_its_offsets_gives_tokens_without_their_spaces(
    preparation: Preparation, folder: Path, tmp_path: Path
) -> None:
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.post_processor = processors.ByteLevel(trim_offsets=True)
    stored.save(str(tmp_path / "tokenizer.json"))
    text = "revenue  by region"

    spans = text_prompt(PromptEncoder(preparation, tmp_path / "tokenizer.json"), text, None).spans_T2.tolist()

    assert [text[begin:end] for begin, end in spans if end] == ["revenue", "by", "region"]


def test_a_template_that_ends_with_the_text_or_begins_with_it(preparation: Preparation, folder: Path) -> None:
    for template in ("{text}", "{text}{augmentation}", "{augmentation}{text}"):
        prompts = PromptEncoder(
            replace(
                preparation,
                prompts={**preparation.prompts, "query": {"text": template}},
                augmentation=preparation.augmentation if "augmentation" in template else None,
            ),
            folder / "tokenizer.json",
        )
        spans = text_prompt(prompts, "revenue by", None).spans_T2
        assert "".join("revenue by"[begin:end] for begin, end in spans.tolist()) == "revenue by"


@pytest.mark.parametrize("size", [(1, 1), (333, 77), (77, 333), (595, 842), (842, 595)])
def test_the_visual_grid_is_the_published_one(
    preparer: Preparer, reference: ColQwen2Reference, size: tuple[int, int]
) -> None:
    page = noise(*size)
    inputs = reference.image_inputs([page])

    row = preparer.image(encode(page, "PNG"))

    _, patch_rows, patch_columns = inputs["image_grid_thw"][0].tolist()
    assert row.visual_grid is not None
    first, rows, columns = row.visual_grid
    assert (rows * 2, columns * 2) == (patch_rows, patch_columns)
    places = np.flatnonzero(inputs["input_ids"][0].numpy() == reference.model.config.image_token_id)
    assert places.tolist() == list(range(first, first + rows * columns))
