"""The words of the demonstration: what pages show and queries name."""

from __future__ import annotations

from importlib.resources import files

# Kinds of figures, which a query can name though no page spells them out.
FIGURES = ("bar", "line", "pie", "table")

# Small words of running text and of queries. They distinguish no page, and no page is searched for them.
FILLERS = ("and", "by", "for", "from", "in", "of", "on", "the", "to", "where", "with", "chart")


def _read() -> tuple[str, ...]:
    text = files("periscope_demo.pages").joinpath("vocabulary.txt").read_text(encoding="utf-8")
    return tuple(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


WORDS = _read()

# Everything that a query can name and a page can be relevant for, in the order of the training's classes.
TERMS = (*WORDS, *FIGURES)
