"""The part of a recipe that preparation reads: image policy, prompts, buckets and limits.

`export` validates the same dataclasses from YAML, so that each field is defined once, here.
Written as `recipe.json` beside the tokenizer; the section `preparation` is all that the runtime looks at.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

ContentKind = Literal["text", "image"]
_Fields = TypeVar("_Fields")


@dataclass(frozen=True)
class ImagePolicy:
    """How a page becomes patches.

    Both sides are rounded to a multiple of `patch_size * merge_size` so that the area stays within
    `min_pixels .. max_pixels`; each patch covers `patch_size` x `patch_size` pixels, and `merge_size` x `merge_size`
    patches become one visual token. A still image is repeated `temporal_patch_size` times.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    max_aspect_ratio: float
    resample: Literal["bicubic", "bilinear", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Bytes of one flattened patch: channels x frames x rows x columns."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class Augmentation:
    """Query augmentation: `token` repeated `count` times, where a template says `{augmentation}`."""

    token: str
    count: int


@dataclass(frozen=True)
class Buckets:
    """Lengths are padded up to multiples of these, so that the server's batcher finds equal shapes."""

    patches: int
    page_tokens: int
    text_tokens: int


@dataclass(frozen=True)
class Limits:
    """What one item may cost. Bytes and pixels are checked before anything is decoded."""

    image_bytes: int
    image_pixels: int
    text_bytes: int
    text_tokens: int


@dataclass(frozen=True)
class Preparation:
    """Everything that turns texts and images into the tensors of the first graph.

    `prompts` maps a role (query, document) and a content kind to a template. A text template holds `{text}` and may
    hold `{augmentation}`; an image template holds `image_token` once.
    """

    image: ImagePolicy
    image_token: str
    positions: Literal["mrope", "sequential"]
    prompts: dict[str, dict[ContentKind, str]]
    buckets: Buckets
    limits: Limits
    augmentation: Augmentation | None = None

    def roles(self, kind: ContentKind) -> list[str]:
        """Roles that take this kind of content; the first is the default."""
        return [role for role, templates in self.prompts.items() if kind in templates]


def load_preparation(path: Path) -> Preparation:
    """Read the preparation section of an exported `recipe.json`.

    Raises `ValueError` naming every missing and unknown field.
    """
    recipe = json.loads(path.read_text(encoding="utf-8"))
    preparation = recipe.get("preparation", {}) if isinstance(recipe, dict) else {}
    problems = list(_problems(Preparation, preparation, "preparation"))
    if problems:
        raise ValueError(
            f"recipe.json: {'; '.join(problems)}. Export the checkpoint again with this version of periscope."
        )
    return _build(Preparation, preparation)


def _problems(cls: type[Any], data: Any, where: str) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"{where} has no fields"
        return
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    yield from (f"{where}.{name} is missing" for name in sorted(required - data.keys()))
    yield from (f"{where}.{name} is unknown" for name in sorted(data.keys() - fields.keys()))
    for name, nested in _nested(cls).items():
        if name in data and (data[name] is not None or name in required):
            yield from _problems(nested, data[name], f"{where}.{name}")


def _build(cls: type[_Fields], data: dict[str, Any]) -> _Fields:
    nested = _nested(cls)

    def convert(name: str, value: Any) -> Any:
        if name in nested and value is not None:
            return _build(nested[name], value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in data.items()})


def _nested(cls: type[Any]) -> dict[str, type[Any]]:
    """Return the fields that are dataclasses themselves, optional ones included."""
    hints = {name: (hint, *typing.get_args(hint)) for name, hint in typing.get_type_hints(cls).items()}
    return {
        name: kind
        for name, kinds in hints.items()
        for kind in kinds
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
