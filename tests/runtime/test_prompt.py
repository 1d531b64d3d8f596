"""Prompts: against string replacement followed by tokenizing, which is what the published processors do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from periscope_runtime.kinds import KindWord
from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import Augmentation, Preparation
from runtime.prompting import page_prompt, text_prompt

PAGE = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe the image.<|im_end|><|endoftext|>"


@given(st.integers(1, 800))
@settings(deadline=None, max_examples=40)
def test_a_page_prompt_is_the_template_with_its_image_token_written_once_a_visual_token(
    prompts: PromptEncoder, tokenizer: Tokenizer, visual_tokens: int
) -> None:
    written = PAGE.replace("<|image_pad|>", "<|image_pad|>" * visual_tokens)

    assert page_prompt(prompts, visual_tokens, "document").input_ids_T.tolist() == tokenizer.encode(written).ids


# Text without a visible character is refused elsewhere, and so is the image token.
TEXTS = st.one_of(
    st.text(min_size=1, max_size=40),
    st.lists(
        st.sampled_from(
            ["{", "}", "{text}", "{augmentation}", "{{text}}", r"\g<0>", r"\1", "%s", "<|endoftext|>", " "]
        ),
        max_size=6,
    ).map("".join),
).filter(lambda text: bool(text.strip()) and "<|image_pad|>" not in text)


@given(TEXTS)
@settings(deadline=None, max_examples=80)
def test_a_text_goes_into_its_template_as_it_is(prompts: PromptEncoder, tokenizer: Tokenizer, text: str) -> None:
    written = "Query: " + text + "<|endoftext|>" * 10

    ids = text_prompt(prompts, text, "query").input_ids_T

    assert ids.tolist() == tokenizer.encode(written).ids
    assert ids.dtype == np.int32


@pytest.mark.parametrize(
    "text", ["{text}", "{augmentation}", "{text}{augmentation}", "{", "}", "{0}", "{{}}", r"\1 \g<text>"]
)
def test_braces_and_escapes_in_a_text_are_text(prompts: PromptEncoder, tokenizer: Tokenizer, text: str) -> None:
    ids = text_prompt(prompts, text, None).input_ids_T.tolist()

    assert tokenizer.decode(ids, skip_special_tokens=True) == "Query: " + text


def test_without_augmentation_its_place_in_the_template_stays_empty(
    preparation: Preparation, folder: Path, tokenizer: Tokenizer
) -> None:
    plain = PromptEncoder(replace(preparation, augmentation=None), folder / "tokenizer.json")

    assert text_prompt(plain, "revenue", None).input_ids_T.tolist() == tokenizer.encode("Query: revenue").ids


def test_augmentation_is_its_token_as_often_as_the_recipe_says(
    preparation: Preparation, folder: Path, tokenizer: Tokenizer
) -> None:
    augmented = replace(preparation, augmentation=Augmentation("<|im_end|>", 3))
    ids = text_prompt(PromptEncoder(augmented, folder / "tokenizer.json"), "revenue", None).input_ids_T.tolist()

    assert ids == tokenizer.encode("Query: revenue<|im_end|><|im_end|><|im_end|>").ids


def test_the_first_role_of_a_kind_is_the_default(preparer: Preparer) -> None:
    assert preparer.text(b"revenue").input_ids_T.tolist() == preparer.text(b"revenue", "query").input_ids_T.tolist()


def test_truncation_and_padding_stored_with_a_tokenizer_are_not_applied(
    preparation: Preparation, folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.enable_truncation(max_length=5)
    stored.enable_padding(length=64)
    stored.save(str(tmp_path / "tokenizer.json"))
    text = "how many visitors did the museum have"

    ids = text_prompt(PromptEncoder(preparation, tmp_path / "tokenizer.json"), text, None).input_ids_T.tolist()

    assert ids == tokenizer.encode(f"Query: {text}" + "<|endoftext|>" * 10).ids


def test_a_tokenizer_without_the_image_token_is_refused_by_name(preparation: Preparation, folder: Path) -> None:
    prompts: dict[str, dict[KindWord, str]] = {**preparation.prompts, "document": {"image": "<image>"}}
    with pytest.raises(ValueError, match=r"has no token '<image>'"):
        PromptEncoder(replace(preparation, image_token="<image>", prompts=prompts), folder / "tokenizer.json")


@pytest.mark.parametrize("prompt", ["Describe the image.", "<|image_pad|> and <|image_pad|>"])
def test_a_page_prompt_must_hold_the_image_token_once(preparation: Preparation, prompt: str) -> None:
    prompts: dict[str, dict[KindWord, str]] = {**preparation.prompts, "document": {"image": prompt}}

    with pytest.raises(ValueError, match=r"the role 'document' must hold <\|image_pad\|> once"):
        replace(preparation, prompts=prompts)


@pytest.mark.parametrize("prompt", ["Query: {augmentation}", "{text} and {text}"])
def test_a_text_prompt_must_hold_the_text_once(preparation: Preparation, prompt: str) -> None:
    prompts: dict[str, dict[KindWord, str]] = {**preparation.prompts, "query": {"text": prompt}}

    with pytest.raises(ValueError, match=r"the role 'query' must hold \{text\} once"):
        replace(preparation, prompts=prompts)
