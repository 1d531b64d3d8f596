"""Drawn pages: the same from the same seed, and every word where the page says that it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageChops

from periscope_demo.pages.fonts import FAMILIES, font
from periscope_demo.pages.generator import FORMATS, Look, make_page
from periscope_demo.pages.page import Page
from periscope_demo.pages.vocabulary import FIGURES, FILLERS, TERMS, WORDS


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return [make_page(np.random.default_rng(seed)) for seed in range(40)]


def test_a_seed_is_a_page(pages: list[Page]) -> None:
    again = make_page(np.random.default_rng(3))
    assert again.image.tobytes() == pages[3].image.tobytes()
    assert again.words == pages[3].words
    assert len({page.image.tobytes() for page in pages}) == len(pages)


def test_every_word_lies_on_the_page_in_ink(pages: list[Page]) -> None:
    for page in pages:
        assert page.image.size in FORMATS
        for placed in page.words:
            left, top, right, bottom = placed.box
            assert 0 <= left < right <= page.image.width
            assert 0 <= top < bottom <= page.image.height
            pixels = np.asarray(page.image.convert("L").crop((int(left), int(top), int(right), int(bottom))), np.int32)
            assert pixels.max() - pixels.min() > 60, f"{placed.term} is not drawn"


def test_letters_tile_their_word(pages: list[Page]) -> None:
    for placed in (placed for page in pages for placed in page.words):
        assert len(placed.letters) == len(placed.term)
        ends = [placed.box[0], *(letter[2] for letter in placed.letters)]
        assert ends[-1] == placed.box[2]
        assert all(letter[0] == start for letter, start in zip(placed.letters, ends[:-1], strict=True))


def test_words_do_not_overlap(pages: list[Page]) -> None:
    for page in pages:
        for number, one in enumerate(page.words):
            for other in page.words[number + 1 :]:
                apart = one.box[2] <= other.box[0] or other.box[2] <= one.box[0]
                assert apart or one.box[3] <= other.box[1] or other.box[3] <= one.box[1], (one.term, other.term)


def test_a_content_word_stands_once_and_topics_are_on_the_page(pages: list[Page]) -> None:
    for page in pages:
        terms = [placed.term for placed in page.words]
        assert len(terms) == len(set(terms))
        assert set(terms) <= set(WORDS)
        assert {figure.term for figure in page.figures} <= set(FIGURES)
        assert all(set(topic) <= page.terms for topic in page.topics)


def test_pages_have_everything_that_documents_have(pages: list[Page]) -> None:
    assert {figure.term for page in pages for figure in page.figures} == set(FIGURES)
    assert 15 <= np.mean([len(page.words) for page in pages]) <= 40
    corners = {page.image.getpixel((0, page.image.height - 1)) for page in pages}
    assert len(corners) > 3, "papers have several colours"


def test_noise_is_light() -> None:
    clean, noisy = (make_page(np.random.default_rng(5), look=Look(noise=noise)).image for noise in (0.0, 4.0))
    difference = np.asarray(ImageChops.difference(clean, noisy))
    assert 0 < difference.std() < 6


def test_the_vocabulary_is_sound() -> None:
    assert len(set(TERMS)) == len(TERMS)
    assert not {*TERMS} & {*FILLERS}
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_fonts_have_every_letter(family: str) -> None:
    for bold in (False, True):
        face = font(family, 16, bold)
        shapes = {bytes(face.getmask(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"}
        assert len(shapes) == 26
