"""The part of a recipe that preparation reads: image policy, prompts, buckets and limits.

`export` validates the same dataclasses from YAML, so that each field is defined once, here.
Written as `recipe.json` beside the tokenizer; the section `preparation` is all that the runtime looks at.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ContentKind = Literal["text", "image"]


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
    preparation = _build(Preparation, json.loads(path.read_text(encoding="utf-8"))["preparation"], "preparation")
    assert isinstance(preparation, Preparation)
    return preparation


def _build(cls: type[Any], data: dict[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    missing, unknown = sorted(required - data.keys()), sorted(data.keys() - fields.keys())
    if missing or unknown:
        raise ValueError(
            f"recipe.json: {where}: missing fields {missing}, unknown fields {unknown}. "
            "Export the checkpoint again with this version of periscope."
        )
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    nested = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    if isinstance(value, dict) and nested:
        return _build(typing.cast("type[Any]", nested[0]), value, where)
    return tuple(value) if isinstance(value, list) else value
