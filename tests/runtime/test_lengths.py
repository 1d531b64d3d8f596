"""Tensors of the preparation are never shorter or longer than it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from periscope_export.recipes.loading import load_recipe
from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.lengths import Range, bucketed, item_lengths, visual_tokens
from periscope_runtime.paths import IMAGE, TEXT
from periscope_runtime.prepare import Preparer
from periscope_runtime.recipe import ImagePolicy, Preparation
from runtime.pictures import encode
from runtime.test_resize import sized


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.integers(1, 2000),
    st.integers(0, 2000),
)
@settings(deadline=None, max_examples=400)
def test_no_page_has_fewer_or_more_visual_tokens(
    policy: ImagePolicy, height: int, width: int, smallest: int, more: int
) -> None:
    area = policy.factor**2
    policy = replace(policy, min_pixels=smallest * area, max_pixels=(smallest + more) * area)
    try:
        rows, columns = sized(height, width, policy)
    except PreparationError:
        return
    found = visual_tokens(policy)
    assert found.smallest <= rows * columns // area <= found.largest


def test_the_published_policy_reaches_its_bounds(policy: ImagePolicy) -> None:
    assert visual_tokens(policy) == Range(4, 768)
    assert math.prod(sized(100, 100, replace(policy, max_pixels=3136))) == 3136
    assert math.prod(sized(24 * 28 * 3, 32 * 28 * 3, policy)) == 602112


def test_a_narrow_page_may_be_longer_than_its_area(policy: ImagePolicy) -> None:
    policy = replace(policy, max_pixels=3136)
    rows, columns = sized(20, 4000, policy)
    assert rows * columns // policy.factor**2 == 28 > 3136 // policy.factor**2
    assert visual_tokens(policy).largest >= 28


def test_what_is_collated_is_within(preparer: Preparer, preparation: Preparation) -> None:
    found = preparer.lengths
    assert found[TEXT] == (Range(16, 2048), Range(0, 0), Range(0, 0), Range(0, 0))
    pages = found[IMAGE]
    for size in ((28, 28), (3000, 2000), (5000, 30)):
        tensors = collate([preparer.image(encode(Image.new("RGB", size), "PNG"))], preparation.buckets)
        assert tensors["patches"].shape[1:3] == (1, 4 * tensors["visual_index"].shape[1])
        assert pages.visual_tokens.smallest <= tensors["visual_index"].shape[1] <= pages.visual_tokens.largest
        assert pages.tokens.smallest <= tensors["input_ids"].shape[1] <= pages.tokens.largest
    largest = collate([preparer.image(encode(Image.new("RGB", (24 * 84, 32 * 84)), "PNG"))], preparation.buckets)
    assert largest["visual_index"].shape[1] == pages.visual_tokens.largest
    assert pages.image_rows == Range(1, 1)
    assert pages.row_tokens == pages.visual_tokens
    assert largest["input_ids"].shape[1] == pages.tokens.largest


@pytest.mark.parametrize(("prompt", "wanted"), [(Range(16, 16), Range(32, 800)), (Range(3, 40), Range(32, 832))])
def test_the_prompt_counts(preparation: Preparation, prompt: Range, wanted: Range) -> None:
    assert item_lengths(preparation, {IMAGE: prompt})[IMAGE].tokens == wanted


@pytest.mark.parametrize(
    ("recipe", "texts", "pages"),
    [("colqwen2", 2048, 2048), ("nemotron_colembed_v2", 512, 3212), ("dse_qwen2", 2052, 2048)],
)
def test_limits_of_roles_and_the_constant_image_count(recipe: str, texts: int, pages: int) -> None:
    """A text alone never has the role of a page's text, nor a page the image beside texts."""
    preparation = load_recipe(recipe).preparation
    assert [preparation.beside_images(path) for path in (TEXT, IMAGE)] == [texts, pages]


@pytest.mark.parametrize(("length", "multiple", "wanted"), [(1, 8, 8), (8, 8, 8), (9, 8, 16), (0, 8, 0)])
def test_bucketed(length: int, multiple: int, wanted: int) -> None:
    assert bucketed(length, multiple) == wanted
