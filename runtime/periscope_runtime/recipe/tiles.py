"""The part of a recipe about tiles: a page that becomes several images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from periscope_runtime.recipe.limits import below_one, refuse


@dataclass(frozen=True)
class ClosestRatio:
    """The page is stretched to a grid of `min_tiles` to `max_tiles` tiles, to that which keeps most of it: of its
    pixels, up to a share that is enough, times of its aspect ratio.

    As Eagle 2 has it, and llama-nemoretriever-colembed on it.
    """

    max_tiles: int
    min_tiles: int = 1


@dataclass(frozen=True)
class AnyResolution:
    """The page keeps its aspect ratio, and gets black margins to fill one of `resolutions`, (height, width) in pixels.

    The one that shows most of the page's pixels, and of several the one with the smallest margins.

    As LLaVA-NeXT has it.
    """

    resolutions: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tiles:
    """The cut of a page into images of `side` x `side` pixels, in reading order, each alone in the vision tower.

    `closest_ratio`, `any_resolution`: how the grid of tiles is chosen: exactly one of these.
    `thumbnail`: whether the whole page, stretched to one tile, stands before or behind the others. None where it does
        not; nor where a page is stretched to a single tile, which is the same.

    Raises `ValueError` with all fields that contradict each other, or that nothing reads.
    """

    side: int
    closest_ratio: ClosestRatio | None = None
    any_resolution: AnyResolution | None = None
    thumbnail: Literal["first", "last"] | None = None

    def __post_init__(self) -> None:
        """Hold the fields together."""
        refuse(self._problems())

    @property
    def grid(self) -> ClosestRatio | AnyResolution:
        """The choice of the grid."""
        # __post_init__ sees to it.
        found = self.closest_ratio or self.any_resolution
        assert found is not None
        return found

    def shown(self, cut: int) -> int:
        """Return of how many images a page is that is cut into so many tiles: these, and the thumbnail."""
        same = cut == 1 and self.closest_ratio is not None
        return cut if self.thumbnail is None or same else cut + 1

    @property
    def counts(self) -> tuple[int, int]:
        """The least and the most images of a page."""
        if isinstance(self.grid, ClosestRatio):
            cuts = [self.grid.min_tiles, self.grid.max_tiles]
        else:
            cuts = [height * width // self.side**2 for height, width in self.grid.resolutions]
        return self.shown(min(cuts)), self.shown(max(cuts))

    def _problems(self) -> Iterator[str]:
        yield from below_one({"side of tiles": self.side})
        if (self.closest_ratio is None) == (self.any_resolution is None):
            yield "tiles has to be exactly one of closest_ratio, any_resolution"
        if (ratio := self.closest_ratio) is not None:
            yield from below_one({"min_tiles": ratio.min_tiles})
            if ratio.max_tiles < ratio.min_tiles:
                yield f"min_tiles {ratio.min_tiles} and max_tiles {ratio.max_tiles} leave no grid between them"
            elif ratio.max_tiles == 1 and self.thumbnail is not None:
                yield "nothing reads thumbnail: with max_tiles 1 a page is never more than one tile"
        if (any_resolution := self.any_resolution) is not None:
            if not any_resolution.resolutions:
                yield "any_resolution has no resolutions"
            for height, width in any_resolution.resolutions:
                if self.side >= 1 and (min(height, width) < 1 or height % self.side or width % self.side):
                    yield f"the resolution {height} x {width} is no grid of tiles of {self.side} pixels"
