"""The part of a recipe that preparation reads: image and video policy, prompts, buckets and limits.

`export` validates the same dataclasses from YAML, so that each field is defined once, here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from periscope_runtime.paths import EMBEDDED, RERANK, ItemPath

# What an item holds.
ContentKind = Literal["text", "image", "image_text", "video", "video_text"]


def _positive(numbers: Mapping[str, int | None]) -> None:
    if wrong := [f"{name} is {number}" for name, number in numbers.items() if number is not None and number < 1]:
        raise ValueError(f"{', '.join(wrong)}: it has to be 1 at least")


def _ordered(area: tuple[int, int]) -> None:
    smallest, largest = area
    if not 0 < smallest <= largest:
        raise ValueError(f"min_pixels {smallest} and max_pixels {largest} leave no size between them")


@dataclass(frozen=True)
class ImagePolicy:
    """How a page becomes patches.

    Each patch covers `patch_size` x `patch_size` pixels, and `merge_size` x `merge_size` patches become one visual
    token. A still image is repeated `temporal_patch_size` times. `fit` says which size a page gets:

    "area": both sides a multiple of `factor`, the aspect ratio kept, the area within `min_pixels .. max_pixels`; sides
        are rounded to `min_side_tokens` visual tokens at least before the area is looked at.
    "stretch": `side` x `side` pixels, whatever the aspect ratio.
    "crop": the shorter side becomes `side` pixels, the aspect ratio kept, and `side` x `side` pixels of the centre
        stay.

    Raises `ValueError` where the numbers of a fit are missing, do not belong to it, or contradict each other.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    max_aspect_ratio: float
    resample: Literal["bicubic", "bilinear", "lanczos"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Literal["area", "stretch", "crop"] = "area"
    min_pixels: int | None = None
    max_pixels: int | None = None
    min_side_tokens: int = 0
    side: int | None = None

    def __post_init__(self) -> None:
        """Hold the fit and its numbers together."""
        _positive({name: getattr(self, name) for name in ("patch_size", "temporal_patch_size", "merge_size")})
        if not self.max_aspect_ratio >= 1:
            raise ValueError(f"max_aspect_ratio is {self.max_aspect_ratio}: it has to be 1 at least")
        if not all(map(math.isfinite, self.mean)) or not all(0 < one < math.inf for one in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} make no numbers of pixels: std has to be above 0")
        area = (self.min_pixels, self.max_pixels)
        if (None in area) if self.fit == "area" else (self.side is None or area != (None, None)):
            raise ValueError(
                f"the fit {self.fit!r} needs {'min_pixels and max_pixels' if self.fit == 'area' else 'side'}"
            )
        if self.side is not None and (self.fit == "area" or self.side % self.factor):
            raise ValueError(f"side belongs to stretch and crop and is a multiple of {self.factor}")
        _ordered(self.area)

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch_size * self.merge_size

    @property
    def patch_dim(self) -> int:
        """Bytes of one flattened patch: channels x frames x rows x columns."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def area(self) -> tuple[int, int]:
        """The smallest and the largest area in pixels."""
        if self.side is not None:
            return self.side**2, self.side**2
        # __post_init__ sees to it.
        assert self.min_pixels is not None
        assert self.max_pixels is not None
        return self.min_pixels, self.max_pixels


@dataclass(frozen=True)
class VideoPolicy:
    """How a list of frames becomes patches; what is not said here is as for pages.

    More than `max_frames` frames are thinned evenly. Each frame is first resized to multiples of `frame_multiple`
    pixels, then all are resized to one size whose area is within `min_pixels .. max_pixels`, and so that the groups of
    `temporal_patch_size` frames share `total_pixels`. `frame` is the prompt of a group: the image token once, and
    `{seconds}`, the mean time of its frames at `fps` frames a second.
    """

    max_frames: int
    fps: float
    frame_multiple: int
    min_pixels: int
    max_pixels: int
    total_pixels: int
    frame: str

    def __post_init__(self) -> None:
        """Refuse limits that no frame could keep."""
        _ordered((self.min_pixels, self.max_pixels))


@dataclass(frozen=True)
class Instruction:
    """What the model is asked to do, where a template says `{instruction}`.

    `default` where the caller gives none. To a given one `end` is added, unless its last character is punctuation.
    `tasks` are instructions that have a name.
    """

    default: str
    end: str = ""
    tasks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairPrompt:
    """The prompt of a query and a document that are judged together.

    `prompt` holds `{query}` and `{document}` once, and may hold `{instruction}`; `contents` says for each kind of
    content what stands there.
    """

    prompt: str
    contents: dict[ContentKind, str]


@dataclass(frozen=True)
class Augmentation:
    """Query augmentation: `token` repeated `count` times, where a template says `{augmentation}`."""

    token: str
    count: int


@dataclass(frozen=True)
class Buckets:
    """Lengths are padded up to multiples of these, so that the server's batcher finds equal shapes.

    Raises `ValueError` for one that is not positive.
    """

    patches: int
    page_tokens: int
    text_tokens: int

    def __post_init__(self) -> None:
        """Refuse what nothing is a multiple of."""
        _positive(vars(self))


@dataclass(frozen=True)
class Limits:
    """What one item may cost. Bytes and pixels are checked before anything is decoded.

    `text_tokens` are those of text and prompt, `tokens` these and the visual ones together (None: no further limit).
    Raises `ValueError` for one that is not positive.
    """

    image_bytes: int
    image_pixels: int
    text_bytes: int
    text_tokens: int
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep."""
        _positive(vars(self))


@dataclass(frozen=True)
class Preparation:
    """Everything that turns texts, images and videos into the tensors of the first graph.

    `prompts` maps a role (query, document) and a kind of content to a template. It holds the fields that its kind has:
    `{text}`, `{video}`, for an image `image_token`, each once; and may hold `{instruction}` and `{augmentation}`. An
    empty template for images says that there is no prompt: the image tower alone makes one state of a page.
    `pooling` says which tokens make the dense vector, or the score: the mean of all, or the last. `special_tokens` says
    whether the tokenizer puts its own around a prompt; it does not where a prompt holds all of them itself.
    """

    image: ImagePolicy
    positions: Literal["mrope", "sequential"]
    prompts: dict[str, dict[ContentKind, str]]
    buckets: Buckets
    limits: Limits
    image_token: str | None = None
    augmentation: Augmentation | None = None
    video: VideoPolicy | None = None
    pair: PairPrompt | None = None
    instruction: Instruction | None = None
    pooling: Literal["mean", "last"] = "mean"
    special_tokens: bool = True

    def roles(self, kind: ContentKind) -> list[str]:
        """Roles that take this kind of content; the first is the default."""
        return [role for role, templates in self.prompts.items() if kind in templates]

    @property
    def kinds(self) -> set[ContentKind]:
        """Kinds of content that are embedded, in any role."""
        return {kind for templates in self.prompts.values() for kind in templates}

    @property
    def paths(self) -> tuple[ItemPath, ...]:
        """The paths that items of this retriever take."""
        return (*(path for path in EMBEDDED if path.content in self.kinds), *(() if self.pair is None else (RERANK,)))

    @property
    def visual_paths(self) -> tuple[ItemPath, ...]:
        """The paths whose items may hold images."""
        return tuple(path for path in self.paths if path.visual)
