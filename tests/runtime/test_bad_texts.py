"""Texts and roles that cannot be prepared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import Limits, Preparation
from runtime.pictures import encode, noise
from runtime.prompting import text_prompt
from runtime.refusals import assert_readable, refused


@pytest.mark.parametrize("text", ["", " ", "\n", "\t \r\n", "\u00a0", "\u2003\u2028"])
def test_a_text_without_a_visible_character_is_refused(preparer: Preparer, text: str) -> None:
    assert refused(preparer.text, text.encode()).problem == "is empty"


@pytest.mark.parametrize("data", [b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xf0\x9f\x93", "text".encode("utf-16")])
def test_bytes_that_are_not_utf_8_are_refused(preparer: Preparer, data: bytes) -> None:
    error = refused(preparer.text, data)

    assert (error.problem, error.remedy) == ("is not valid UTF-8", "Send UTF-8 text")


def test_the_byte_limit_counts_bytes_and_lets_its_own_number_pass(preparer: Preparer, limits: Limits) -> None:
    error = refused(preparer.text, "\u00e9".encode() * (limits.text_bytes // 2) + b"x")

    assert error.problem == f"has {limits.text_bytes + 1} bytes, above the limit of {limits.text_bytes}"
    # As many bytes as allowed: now the tokens are too many, which is the next thing looked at.
    error = refused(preparer.text, b"x" * limits.text_bytes)
    assert "tokens" in error.problem


def test_the_token_limit_counts_the_whole_prompt_and_lets_its_own_number_pass(
    preparation: Preparation, folder: Path
) -> None:
    def encoder(text_tokens: int) -> PromptEncoder:
        limits = replace(preparation.limits, text_tokens=text_tokens)
        return PromptEncoder(replace(preparation, limits=limits), folder / "tokenizer.json")

    length = len(text_prompt(encoder(100), "revenue by region", None).input_ids_T)

    assert len(text_prompt(encoder(length), "revenue by region", None).input_ids_T) == length
    error = refused(lambda text, role: text_prompt(encoder(length - 1), text, role), "revenue by region", None)
    assert error.problem == f"has {length} tokens, above the limit of {length - 1}"
    assert error.remedy == "Shorten or split it"


@pytest.mark.parametrize("text", ["<|image_pad|>", "a page: <|vision_start|><|image_pad|><|vision_end|> and more"])
def test_the_image_token_inside_a_text_is_refused(preparer: Preparer, text: str) -> None:
    error = refused(preparer.text, text.encode())

    assert error.problem == "contains <|image_pad|>, which stands for an image"


@pytest.mark.parametrize("role", ["passage", "", "QUERY", "query ", "document"])
def test_a_role_that_takes_no_text_is_refused_with_those_that_do(preparer: Preparer, role: str) -> None:
    error = refused(preparer.text, b"revenue", role)

    assert error.problem == f"has the role {role!r}, which this retriever does not know for texts"
    assert error.remedy == "Use one of ['query']"


@pytest.mark.parametrize("role", ["page", "", "query"])
def test_a_role_that_takes_no_page_is_refused_with_those_that_do(preparer: Preparer, role: str) -> None:
    error = refused(preparer.image, encode(noise(30, 30), "PNG"), role)

    assert error.problem == f"has the role {role!r}, which this retriever does not know for images"
    assert error.remedy == "Use one of ['document']"


ROLES = st.one_of(st.none(), st.sampled_from(["query", "document"]), st.text("abQ {\n\u00e9", max_size=8))


@given(st.binary(max_size=80), ROLES)
@settings(deadline=None, max_examples=200)
def test_random_bytes_and_roles_are_refused_or_prepared_and_nothing_else(
    preparer: Preparer, data: bytes, role: str | None
) -> None:
    try:
        row = preparer.text(data, role)
    except PreparationError as error:
        assert_readable(error)
    else:
        assert row.positions_3T.shape == (3, len(row.input_ids_T))
        assert row.patches is None


def test_the_whole_message_names_the_step_and_the_item(preparer: Preparer) -> None:
    message = refused(preparer.text, b"").at("preprocess", "text 2")

    assert message == "preprocess: text 2: is empty. Send a text with at least one visible character."
