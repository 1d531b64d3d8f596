"""Rules for texts: what they make of one, and where its characters come from."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from periscope_runtime.asked import Asked
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import Instruction, Preparation, TextRule
from periscope_runtime.text_rules import traced
from runtime.prompting import text_prompt
from runtime.test_contents import CHANGES, PAGE, written
from runtime.test_contents import build as build

FORMAT: tuple[TextRule, ...] = ("drop_carriage_returns", "strip", "strip_quotes", "capitalise", "end_sentence")
TEXTS = st.text(st.sampled_from('aB ß"\r\n.?!\u3002ŉ 图'), max_size=12)


def format_string(text: str) -> str:
    """As LamRA and U-MARVEL have it."""
    text = text.replace("\r", "").strip().strip('"')
    if text:
        text = text[0].upper() + text[1:]
        text = text + "." if text[-1] not in [".", "?", "!"] else text
    return text


@given(TEXTS)
@settings(max_examples=300)
def test_the_rules_together_are_the_published_function(text: str) -> None:
    assert traced(text, FORMAT).text == format_string(text)


ALONE: dict[TextRule, Callable[[str], str]] = {
    "drop_carriage_returns": lambda text: text.replace("\r", ""),
    "strip": str.strip,
    "strip_quotes": lambda text: text.strip('"'),
    "capitalise": lambda text: text[:1].upper() + text[1:],
    "end_sentence": lambda text: text + "." * (text[-1:] not in (".", "?", "!") and bool(text)),
    "end_unless_punctuation": lambda text: (
        text if not text or unicodedata.category(text[-1]).startswith("P") else text + "."
    ),
}


def test_every_rule_is_known_here() -> None:
    assert sorted(ALONE) == sorted(get_args(TextRule))


@pytest.mark.parametrize("rule", ALONE)
@given(TEXTS)
def test_a_rule_alone(rule: TextRule, text: str) -> None:
    assert traced(text, [rule]).text == ALONE[rule](text)


@given(TEXTS, st.lists(st.sampled_from(sorted(ALONE)), max_size=4))
@settings(max_examples=300)
def test_characters_come_from_where_they_say(text: str, rules: list[TextRule]) -> None:
    found = traced(text, rules)
    assert len(found.text) == len(found.origins_N2)
    for character, (begin, end) in zip(found.text, found.origins_N2.tolist(), strict=True):
        source = text[begin:end]
        # Upper case of one character may be two.
        assert character in ((source + source.upper()) or "."), (character, begin, end)
    assert (np.diff(found.origins_N2, axis=0) >= 0).all()


def test_rules_change_what_is_embedded_and_spans_stay_right(
    preparation: Preparation, folder: Path, tokenizer: Tokenizer
) -> None:
    text = ' "revenue\r by region" '
    for count in range(len(FORMAT) + 1):
        ruled = PromptEncoder(replace(preparation, text_rules=FORMAT[:count]), folder / "tokenizer.json")
        ids, spans, *_ = text_prompt(ruled, text)
        wanted = traced(text, FORMAT[:count]).text
        assert ids.tolist() == tokenizer.encode(f"Query: {wanted}" + "<|endoftext|>" * 10).ids
        pieces = "".join(text[begin:end] for begin, end in spans.tolist() if end)
        assert pieces == (text if count == 0 else pieces)
        assert pieces.replace("\r", "").strip(' "') == "revenue by region"


@pytest.mark.parametrize("text", ['""', ' "" ', '"\r"'])
def test_a_text_of_which_nothing_is_left_is_refused(preparation: Preparation, folder: Path, text: str) -> None:
    ruled = PromptEncoder(replace(preparation, text_rules=FORMAT), folder / "tokenizer.json")
    with pytest.raises(PreparationError, match="nothing but quotes"):
        text_prompt(ruled, text)


def test_what_rules_drop_cannot_hide_an_image_token(preparation: Preparation, folder: Path) -> None:
    ruled = PromptEncoder(replace(preparation, text_rules=FORMAT), folder / "tokenizer.json")
    with pytest.raises(PreparationError, match="stands for an image"):
        text_prompt(ruled, "a <|image\r_pad|> b")


JOINED = Instruction("", FORMAT, "{unpooled}<i>{instruction}</i>{/unpooled} {text}")


@pytest.fixture(scope="module")
def joined(build: Callable[..., Preparer]) -> Preparer:
    """As U-MARVEL: an instruction joins the text, and its tokens are not pooled."""
    contents = CHANGES["pair"]["contents"]
    changes: dict[str, Any] = {
        "instruction": vars(JOINED),
        "text_rules": FORMAT,
        "prompts": {"query": {kind: f"<{template}>" for kind, template in contents.items()}},
        "pair": None,
        "pooling": "mean",
    }
    return build(**changes)


@pytest.mark.parametrize(
    ("text", "asked", "instruction"),
    [
        ("cats", Asked(), ""),
        (' "cats"', Asked(instruction=' "find\r them" '), "Find them."),
        ("cats!", Asked(task="same"), "Find the same."),
    ],
)
def test_an_instruction_joins_the_text(
    joined: Preparer, tokenizer: Tokenizer, text: str, asked: Asked, instruction: str
) -> None:
    """As datasets_mbeir.py of LamRA and U-MARVEL: the rules of a text are for both."""
    row = joined.item(Item(text=text.encode()), asked)

    wanted = f"<{format_string(f'<i>{instruction}</i> {text}' if instruction else text)}>"
    encoding = tokenizer.encode(wanted)
    assert row.input_ids_T.tolist() == encoding.ids
    begin, end = wanted.find("<i>"), wanted.find("</i>") + 4
    pooled = [int(not (instruction and begin <= place < end)) for place, _ in encoding.offsets]
    assert row.pooled_T.tolist() == pooled
    assert len(set(pooled)) == 1 + bool(instruction)
    assert "cats" in "".join(text[one:other] for one, other in row.spans_T2.tolist() if other)


def test_an_instruction_beside_an_image_is_its_text(joined: Preparer, tokenizer: Tokenizer) -> None:
    row = joined.item(Item(images=[PAGE]), Asked(instruction="find"))
    pads = "<|image_pad|>" * 6
    wanted = f"<<|vision_start|>{pads}<|vision_end|><i>Find.</i>.>"
    assert row.input_ids_T.tolist() == written(tokenizer, wanted)
    assert joined.item(Item(images=[PAGE]), Asked()).input_ids_T.tolist() == written(
        tokenizer, f"<<|vision_start|>{pads}<|vision_end|>>"
    )
