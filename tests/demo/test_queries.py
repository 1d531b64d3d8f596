"""Queries name what is on a page, and fit every page that shows all of it."""

from __future__ import annotations

import numpy as np

from periscope_demo.pages.generator import make_page
from periscope_demo.pages.vocabulary import FIGURES, FILLERS, TERMS
from periscope_demo.queries import make_query
from periscope_testing.tokenizers.qwen2 import make_tokenizer

PAGES = [make_page(np.random.default_rng(seed)) for seed in range(30)]


def test_a_query_fits_the_page_that_it_was_made_for() -> None:
    generator = np.random.default_rng(1)
    for page in PAGES * 5:
        query = make_query(generator, page)
        assert query.fits(page)
        assert 1 <= len(query.terms) <= 4


def test_the_text_names_the_terms_and_nothing_else() -> None:
    generator = np.random.default_rng(2)
    for page in PAGES * 5:
        query = make_query(generator, page)
        named = {word for word in query.text.lower().split() if word not in {*FILLERS, "is", "page"}}
        assert named == query.terms
        assert (query.kind in ("cell", "label")) == bool(query.terms & {*FIGURES})


def test_pages_that_lack_a_term_do_not_fit() -> None:
    generator = np.random.default_rng(3)
    for page in PAGES:
        query = make_query(generator, page)
        for other in PAGES:
            words = {placed.term for placed in (*other.words, *other.figures)}
            assert query.fits(other) == all(term in words for term in query.terms)


def test_each_term_is_one_token() -> None:
    tokenizer = make_tokenizer((*TERMS, *FILLERS))
    for term in TERMS:
        for form in (term, term.capitalize()):
            assert tokenizer.encode(f"the {form}", add_special_tokens=False).tokens[-1] == f"Ġ{form}"
