"""Prompt templates: literal text with fields, and what a recipe's templates have to hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from periscope_runtime.recipe import ContentKind, Preparation

FIELDS = ("text", "video", "instruction", "augmentation", "query", "document", "seconds")
_FIELD = re.compile(rf"\{{({'|'.join(FIELDS)})\}}")


class Filled(NamedTuple):
    """A filled template, and at which code point each of its fields begins."""

    prompt: str
    begins: dict[str, int]


class Template:
    """Literal text with fields such as `{text}`; braces around any other word are literal."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._parts = _FIELD.split(source)

    def count(self, field: str) -> int:
        """How often a field occurs."""
        return self._parts[1::2].count(field)

    def fill(self, values: Mapping[str, str]) -> Filled:
        """Return the text with every field replaced. Raises `KeyError` for a field without a value."""
        prompt, begins = "", {}
        for index, part in enumerate(self._parts):
            if index % 2:
                begins[part] = len(prompt)
            prompt += values[part] if index % 2 else part
        return Filled(prompt, begins)


def check_prompts(preparation: Preparation) -> None:
    """Raise `ValueError` naming every template that lacks a field of its kind, or has one that it must not have."""
    if problems := list(_problems(preparation)):
        raise ValueError(f"recipe: {'; '.join(problems)}. Correct these templates.")


def _problems(preparation: Preparation) -> Iterator[str]:
    image_token = preparation.image_token
    for role, templates in preparation.prompts.items():
        for kind, source in templates.items():
            # Without a prompt there is nothing to check: the image tower makes the only state.
            if kind != "image" or source:
                yield from _check(f"the {kind} prompt of the role {role!r}", source, kind, image_token)
    if preparation.pair is not None:
        for kind, source in preparation.pair.contents.items():
            yield from _check(f"the pair's {kind}", source, kind, image_token)
        for field in ("query", "document"):
            yield from _once("the pair's prompt", Template(preparation.pair.prompt), field, 1)
    if preparation.video is not None and image_token is not None and preparation.video.frame.count(image_token) != 1:
        yield f"the video's frame must hold {image_token} once"
    videos = any(
        "video" in kind for kind in (*preparation.kinds, *(preparation.pair.contents if preparation.pair else ()))
    )
    if videos != (preparation.video is not None):
        yield "prompts for videos and the section video need each other"
    instructed = any("{instruction}" in source for source in _sources(preparation))
    if instructed != (preparation.instruction is not None):
        yield "prompts with {instruction} and the section instruction need each other"


def _sources(preparation: Preparation) -> list[str]:
    pair = [] if preparation.pair is None else [preparation.pair.prompt]
    return [*pair, *(source for templates in preparation.prompts.values() for source in templates.values())]


def _check(what: str, source: str, kind: ContentKind, image_token: str | None) -> Iterator[str]:
    template = Template(source)
    yield from _once(what, template, "text", int("text" in kind))
    yield from _once(what, template, "video", int("video" in kind))
    images = 0 if image_token is None else source.count(image_token)
    if images != int("image" in kind):
        yield f"{what} must hold {image_token} {'once' if 'image' in kind else 'not at all'}"


def _once(what: str, template: Template, field: str, times: int) -> Iterator[str]:
    if template.count(field) != times:
        yield f"{what} must hold {{{field}}} {'once' if times else 'not at all'}"
