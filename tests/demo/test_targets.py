"""The targets of the supervision, against counting pixels one by one."""

from __future__ import annotations

import numpy as np
import pytest

from periscope_demo.pages.generator import make_page
from periscope_demo.pages.page import Box, Page, Placed
from periscope_demo.training.targets import CLASS, LETTERS, NO_TERM, letter_targets, term_targets, token_class


def share(box: Box, cell: Box) -> float:
    """Part of a cell that a box covers, counted on a grid of tenths of pixels."""
    if not (box[0] < cell[2] and cell[0] < box[2] and box[1] < cell[3] and cell[1] < box[3]):
        return 0.0
    xs, ys = (np.arange(cell[axis], cell[axis + 2], 0.1) + 0.05 for axis in (0, 1))
    inside_x, inside_y = (xs >= box[0]) & (xs < box[2]), (ys >= box[1]) & (ys < box[3])
    return float(inside_x.mean() * inside_y.mean())


@pytest.fixture(scope="module", params=range(4))
def page(request: pytest.FixtureRequest) -> Page:
    return make_page(np.random.default_rng(request.param))


def test_a_visual_token_shows_the_words_that_cover_it(page: Page) -> None:
    rows, columns = page.image.height // 28, page.image.width // 28
    targets_VY = term_targets(page, (rows, columns), 28)
    for token, target_Y in enumerate(targets_VY):
        row, column = divmod(token, columns)
        cell = (column * 28.0, row * 28.0, column * 28.0 + 28, row * 28.0 + 28)
        cover = {placed.term: share(placed.box, cell) for placed in page.words}
        shown = {term: part for term, part in cover.items() if part >= 0.105}
        unclear = {term for term, part in cover.items() if 0.095 < part < 0.105}
        found = {term for term in cover if target_Y[CLASS[term]] > 0}
        assert set(shown) <= found <= set(shown) | unclear
        if not unclear:
            for term, part in shown.items():
                assert target_Y[CLASS[term]] == pytest.approx(part / sum(shown.values()), abs=0.03)
        assert target_Y.sum() == pytest.approx(1)


def test_a_patch_shows_the_letters_that_lie_in_it(page: Page) -> None:
    rows, columns = page.image.height // 14, page.image.width // 14
    positions_P2 = np.array([(row, column) for row in range(rows) for column in range(columns)], dtype=np.int32)
    targets_PZ = letter_targets(page, positions_P2, 14)
    letters = [pair for placed in page.words for pair in zip(placed.term, placed.letters, strict=True)]
    assert letters
    for (row, column), target_Z in zip(positions_P2, targets_PZ, strict=True):
        cell = (column * 14.0, row * 14.0, column * 14.0 + 14, row * 14.0 + 14)
        for letter, box in letters:
            area = (box[2] - box[0]) * (box[3] - box[1])
            if share(box, cell) * 196 > area * 0.36:
                assert target_Z[LETTERS.index(letter)] == 1
    assert targets_PZ.sum() < 4 * len(letters)


def test_what_shows_nothing_is_no_term_and_figures_are_theirs() -> None:
    image = make_page(np.random.default_rng(0), size=(112, 112)).image
    chart = Page(image, (), (Placed("pie", (28, 28, 84, 84)),), ())
    targets_VY = term_targets(chart, (4, 4), 28)
    inside = [5, 6, 9, 10]
    assert (targets_VY[inside, CLASS["pie"]] == 1).all()
    outside = [token for token in range(16) if token not in inside]
    assert (targets_VY[outside, NO_TERM] == 1).all()


def test_classes_of_query_tokens() -> None:
    assert token_class("ĠGarlic") == token_class("Ġgarlic") == CLASS["garlic"]
    assert token_class("Ġthe") == token_class("<|endoftext|>") == NO_TERM
