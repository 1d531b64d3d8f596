"""The document of the demonstration: a PDF of drawn pages, and what to ask about them."""

from __future__ import annotations

import time
from pathlib import Path

from periscope_demo.evaluation import EvaluationSet, make_evaluation

_SEED = 2407
# Rendered at this many dots an inch, which is the client's default, a page has the pixels that it was drawn with.
_DPI = 144


def demo_set() -> EvaluationSet:
    """Twelve pages, and a query of each kind about them."""
    return make_evaluation(pages=12, queries=4, seed=_SEED)


def make_document(path: Path) -> Path:
    """Write the pages of `demo_set` as a PDF, the same bytes at every call, and return its path."""
    first, *others = (page.image for page in demo_set().pages)
    date = time.gmtime(0)
    first.save(
        path, "PDF", save_all=True, append_images=others, resolution=_DPI, quality=95, creationDate=date, modDate=date
    )
    return path
