"""Kinds of content: the parts that an item holds, and how recipes and messages spell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

# One part of an item. `images` are several of them, `image` is one.
Part = Literal["text", "image", "images", "video"]
# The parts of an item: an image or a video first, the text beside it last.
ContentKind = tuple[Part, ...]
# A kind as a recipe spells it: its parts, joined by "_".
KindWord = Literal["text", "image", "image_text", "images", "images_text", "video", "video_text"]

_ONE: dict[Part, str] = {"text": "a text", "image": "an image", "images": "several images", "video": "a video"}
_MANY: dict[Part, str] = {"text": "texts", "image": "images", "images": "several images", "video": "videos"}


def parsed(word: KindWord) -> ContentKind:
    """Return the kind that a recipe spells.

    >>> parsed("image_text")
    ('image', 'text')
    """
    return cast(ContentKind, tuple(word.split("_")))


def spelled(kind: ContentKind) -> str:
    """Return a kind as a recipe spells it."""
    return "_".join(kind)


def single(kind: ContentKind) -> ContentKind:
    """Return a kind with one image where it has several.

    >>> single(("images", "text"))
    ('image', 'text')
    """
    return tuple("image" if part == "images" else part for part in kind)


def templates(words: Mapping[KindWord, str]) -> dict[ContentKind, str]:
    """Return templates by kind; that of several images is for one as well, which has none of its own.

    >>> templates({"text": "{text}", "images": "{images}"})
    {('text',): '{text}', ('image',): '{images}', ('images',): '{images}'}
    """
    said = {parsed(word): template for word, template in words.items()}
    found: dict[ContentKind, str] = {}
    for kind, template in said.items():
        found[single(kind)] = said.get(single(kind), template)
        found[kind] = template
    return found


def described(kind: ContentKind) -> str:
    """Return an item of a kind in words.

    >>> described(("image", "text"))
    'an image with a text'
    """
    return " with ".join(_ONE[part] for part in kind)


def plural(kind: ContentKind) -> str:
    """Return items of a kind in words.

    >>> plural(("image", "text"))
    'images with texts'
    """
    return " with ".join(_MANY[part] for part in kind)
