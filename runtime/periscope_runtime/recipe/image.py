"""The part of a recipe about images and videos: the size that a page gets, and how it becomes patches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from periscope_runtime.recipe.limits import below_one, refuse
from periscope_runtime.recipe.tiles import Tiles

Resample = Literal["bicubic", "bilinear", "lanczos"]


@dataclass(frozen=True)
class Area:
    """Both sides become multiples of `multiple` pixels, the aspect ratio is kept, the area is bounded.

    `multiple`: in pixels; None for the side of a visual token.
    `min_pixels`, `max_pixels`: of the area; None for those of the policy.
    `min_side`: both sides are so many multiples at least before the area is looked at.
    `clamp_ratio`: the longer side becomes at most so many times the shorter one; None where nothing is clamped.
    """

    multiple: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    min_side: int = 0
    clamp_ratio: int | None = None


@dataclass(frozen=True)
class Stretch:
    """Both sides become `side` pixels (None: that of the policy), whatever the aspect ratio.

    `below`: only where a side has fewer pixels than this; None for every page.
    """

    side: int | None = None
    below: int | None = None


@dataclass(frozen=True)
class Crop:
    """The shorter side becomes `side` pixels (None: that of the policy), and as many of the other's centre stay."""

    side: int | None = None


@dataclass(frozen=True)
class Pad:
    """The longer side becomes `side` pixels (None: that of the policy), with margins of `colour` (RGB) on both sides of
    the shorter one.
    """

    side: int | None = None
    colour: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Trim:
    """Rows and columns at the bottom and at the right that make no whole visual token are left out.

    As by a convolution whose stride does not divide the side of an image.
    """


@dataclass(frozen=True)
class ResizeStep:
    """One step on the way to the size that a page gets: exactly one of these."""

    area: Area | None = None
    stretch: Stretch | None = None
    crop: Crop | None = None
    pad: Pad | None = None
    trim: Trim | None = None

    @property
    def kind(self) -> Area | Stretch | Crop | Pad | Trim:
        """The one that there is."""
        kinds = (self.area, self.stretch, self.crop, self.pad, self.trim)
        return next(one for one in kinds if one is not None)


@dataclass(frozen=True)
class ImagePolicy:
    """The way from a page to patches.

    Each patch covers `patch_size` x `patch_size` pixels, and `merge_size` x `merge_size` patches become one visual
    token. A still image is repeated `temporal_patch_size` times.
    `resample`: the filter of all steps. `mean`, `std`: of the channels, from 0 to 1.
    `max_aspect_ratio`: pages with a larger one are refused; None where there is no limit.
    `resize`: the steps to the size of a page, in order.
    `min_pixels`, `max_pixels`, `side`: for those steps that have none of their own.
    `tiles`: how a resized page becomes several images; None where it is one. `resize` may be empty then.
    `window_size`: pixels along a side of the windows that the vision tower attends within; None where it has none.

    Raises `ValueError` with all fields that contradict each other, or that nothing reads.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    resample: Resample
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_aspect_ratio: float | None = None
    resize: tuple[ResizeStep, ...] = (ResizeStep(area=Area()),)
    min_pixels: int | None = None
    max_pixels: int | None = None
    side: int | None = None
    tiles: Tiles | None = None
    window_size: int | None = None

    def __post_init__(self) -> None:
        """Hold the fields together."""
        refuse(self._problems())

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch_size * self.merge_size

    @property
    def window(self) -> int:
        """Visual tokens along one side of a window, 1 where there are none."""
        return 1 if self.window_size is None else self.window_size // self.factor

    @property
    def patch_dim(self) -> int:
        """Bytes of one flattened patch: channels x frames x rows x columns."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    def multiple(self, step: Area) -> int:
        """Return what both sides become multiples of, in pixels."""
        return self.factor if step.multiple is None else step.multiple

    def pixels(self, step: Area) -> tuple[int, int]:
        """Return the smallest and the largest area, in pixels."""
        smallest = self.min_pixels if step.min_pixels is None else step.min_pixels
        largest = self.max_pixels if step.max_pixels is None else step.max_pixels
        # __post_init__ sees to it.
        assert smallest is not None
        assert largest is not None
        return smallest, largest

    def length(self, step: Stretch | Crop | Pad) -> int:
        """Return the side of the square, in pixels."""
        side = self.side if step.side is None else step.side
        assert side is not None
        return side

    def _problems(self) -> Iterator[str]:
        yield from below_one(
            {name: getattr(self, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
        )
        if self.max_aspect_ratio is not None and not self.max_aspect_ratio >= 1:
            yield f"max_aspect_ratio is {self.max_aspect_ratio}: it has to be 1 at least"
        if not all(map(math.isfinite, self.mean)) or not all(0 < one < math.inf for one in self.std):
            yield f"mean {self.mean} and std {self.std} make no numbers of pixels: std has to be above 0"
        if self.window_size is not None and (self.window_size < self.factor or self.window_size % self.factor):
            yield f"window_size is {self.window_size}: it has to be a multiple of {self.factor}, a visual token's side"
        if unclear := [step for step in self.resize if sum(one is not None for one in vars(step).values()) != 1]:
            yield f"resize has {len(unclear)} steps that are not exactly one of {', '.join(vars(unclear[0]))}"
        else:
            yield from self._steps()

    def _steps(self) -> Iterator[str]:
        """Problems of steps, each of which is one of a kind."""
        kinds = [step.kind for step in self.resize]
        used = set[str]()
        for kind in kinds:
            if isinstance(kind, Trim):
                continue
            names = ("min_pixels", "max_pixels") if isinstance(kind, Area) else ("side",)
            shared = {name for name in names if getattr(kind, name) is None}
            used |= shared
            word = type(kind).__name__.lower()
            if lacking := sorted(name for name in shared if getattr(self, name) is None):
                yield f"the step {word} of resize needs {' and '.join(lacking)}"
            elif isinstance(kind, Area):
                smallest, largest = self.pixels(kind)
                if not 0 < smallest <= largest:
                    yield f"min_pixels {smallest} and max_pixels {largest} leave no size between them"
            yield from below_one(
                {f"{name} of {word}": value for name, value in vars(kind).items() if name not in ("colour", "min_side")}
            )
            if isinstance(kind, Pad) and not all(0 <= one <= 255 for one in kind.colour):
                yield f"the colour {kind.colour} of pad is no RGB colour: each has to be within 0 and 255"
            if isinstance(kind, Area) and kind.min_side < 0:
                yield f"min_side of area is {kind.min_side}: it has to be 0 at least"
        for name in ("min_pixels", "max_pixels", "side"):
            if getattr(self, name) is not None and name not in used:
                yield f"no step of resize reads {name}"
        yield from self._whole_tokens(kinds)
        yield from self._bounded(kinds)

    def _whole_tokens(self, kinds: list[Area | Stretch | Crop | Pad | Trim]) -> Iterator[str]:
        """Problems of what the last steps leave behind: both sides hold whole visual tokens."""
        if self.tiles is not None:
            if self.factor >= 1 and self.tiles.side % self.factor:
                yield (
                    f"side of tiles is {self.tiles.side}, and a visual token has {self.factor} pixels: it has to be a "
                    f"multiple of {self.factor}"
                )
            if any(isinstance(kind, Trim) for kind in kinds):
                yield "trim and tiles exclude each other: tiles hold whole visual tokens"
            return
        sized = [kind for kind in kinds if not isinstance(kind, Stretch) or kind.below is None]
        if not sized:
            yield "resize has no step that gives every page its size"
            return
        *_, last = sized
        trims = isinstance(last, Trim)
        sides = [kind for kind in sized if not isinstance(kind, Trim)]
        if not sides or kinds[-1] is not last:
            yield "the last step of resize gives no page its size"
            return
        if isinstance(sides[-1], Area):
            name, side = "multiple", self.multiple(sides[-1])
        else:
            name, side = "side", sides[-1].side or self.side or self.factor
        if self.factor >= 1 and (side < self.factor if trims else side % self.factor):
            wanted = f"{self.factor} at least" if trims else f"a multiple of {self.factor}, or trim the last step"
            yield f"{name} is {side}, and a visual token has {self.factor} pixels: it has to be {wanted}"

    def _bounded(self, kinds: list[Area | Stretch | Crop | Pad | Trim]) -> Iterator[str]:
        """Problems of steps that make a narrow page as long as it likes."""
        bounded = self.max_aspect_ratio is not None
        for kind in kinds:
            if isinstance(kind, Crop) and not bounded:
                yield "crop needs max_aspect_ratio: a narrow page would have no largest size"
            if isinstance(kind, Area) and not bounded and kind.clamp_ratio is None:
                yield "area needs max_aspect_ratio, or clamp_ratio: a narrow page would have no largest size"
            bounded |= not isinstance(kind, Trim) and not (isinstance(kind, Stretch) and kind.below is not None)


@dataclass(frozen=True)
class ConstantImage:
    """The image that is beside texts, the same for all of them, where a template says `{constant_image}`.

    `width`, `height`: in pixels, as the vision tower takes it: it is not resized. `colour`: RGB, of all pixels.

    Raises `ValueError` for what is no image.
    """

    width: int
    height: int
    colour: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        """Refuse what nothing could show."""
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from below_one({f"{name} of constant_image": getattr(self, name) for name in ("width", "height")})
        if not all(0 <= one <= 255 for one in self.colour):
            yield f"the colour {self.colour} of constant_image is no RGB colour: each has to be within 0 and 255"


@dataclass(frozen=True)
class VideoPolicy:
    """The way from a list of frames to patches; the rest is as for pages.

    More than `max_frames` frames are thinned evenly. `frame` is the prompt of a group of `temporal_patch_size` frames:
    the image token once, and `{seconds}`, the mean time of its frames at `fps` frames a second, where it is told.
    Each frame is resized as a page is (`ImagePolicy.resize`), unless there is a `frame_multiple`: then first to
    multiples of so many pixels, and after that all to one size whose area is within `min_pixels .. max_pixels`, and so
    that the groups share `total_pixels`.
    """

    max_frames: int
    frame: str
    fps: float | None = None
    frame_multiple: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that no frame could keep."""
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        whole = ("max_frames", "frame_multiple", "total_pixels")
        yield from below_one({name: getattr(self, name) for name in whole})
        if self.fps is not None and not 0 < self.fps < math.inf:
            yield f"fps is {self.fps}: it has to be above 0"
        sizes = {name: getattr(self, name) for name in ("frame_multiple", "min_pixels", "max_pixels", "total_pixels")}
        lacking = [name for name, size in sizes.items() if size is None]
        if 0 < len(lacking) < len(sizes):
            yield f"{', '.join(sizes)} of video need each other, and there is no {', '.join(lacking)}"
        if not lacking and not 0 < sizes["min_pixels"] <= sizes["max_pixels"]:
            yield f"min_pixels {self.min_pixels} and max_pixels {self.max_pixels} leave no size between them"
