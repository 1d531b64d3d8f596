"""Pages to tiles: the images that the vision tower sees of a page, where that is not the page itself.

Pages are resampled by Pillow on uint8 pixels, as the published image processors do.
"""

from __future__ import annotations

import math
from functools import lru_cache

from PIL import Image

from periscope_runtime.recipe import AnyResolution, ClosestRatio, ImagePolicy
from periscope_runtime.resize import FILTERS

# A grid that shows this much of a page's pixels shows enough of them. Source: Eagle 2.
_ENOUGH = 0.6


def tiled(page: Image.Image, policy: ImagePolicy) -> list[Image.Image]:
    """Return the tiles of a resized page, the thumbnail among them; of a policy without tiles, the page alone."""
    words = policy.tiles
    if words is None:
        return [page]
    side, resample = words.side, FILTERS[policy.resample]
    if isinstance(words.grid, ClosestRatio):
        columns, rows = closest_grid(page.width, page.height, side, words.grid)
        whole = page.resize((columns * side, rows * side), resample)
    else:
        whole = _within(page, best_resolution(page.height, page.width, words.grid), resample)
    cut = [
        whole.crop((left, top, left + side, top + side))
        for top in range(0, whole.height, side)
        for left in range(0, whole.width, side)
    ]
    if words.shown(len(cut)) == len(cut):
        return cut
    thumbnail = page.resize((side, side), resample)
    return [thumbnail, *cut] if words.thumbnail == "first" else [*cut, thumbnail]


def closest_grid(width: int, height: int, side: int, budget: ClosestRatio) -> tuple[int, int]:
    """Return how many columns and rows of tiles keep most of a page; of several that keep as much, the first.

    Source: Eagle 2 as NVIDIA-NeMo/Automodel has it, `llama_nemotron_vl/processor.py`. The order of operations decides
    between grids that are equal but for rounding.
    """
    ratio, area = width / height, width * height

    def kept(grid: tuple[int, int]) -> float:
        columns, rows = grid
        of_tiles = columns / rows
        pixels = columns * rows * side * side / area
        return min(pixels, _ENOUGH) * min(of_tiles / ratio, ratio / of_tiles)

    return max(_grids(budget.min_tiles, budget.max_tiles), key=kept)


@lru_cache
def _grids(fewest: int, most: int) -> list[tuple[int, int]]:
    """Return all grids (columns, rows) of so many tiles, small ones first.

    Among those of one size the published order is that in which a set holds them, filled from the shorter ones to the
    longer ones. It decides between 2 x 3 and 3 x 2 on a square page, and is the same in every CPython.
    """
    grids = {
        (columns, rows)
        for longest in range(fewest, most + 1)
        for columns in range(1, longest + 1)
        for rows in range(1, longest + 1)
        if fewest <= columns * rows <= most
    }
    return sorted(grids, key=math.prod)


def best_resolution(height: int, width: int, policy: AnyResolution) -> tuple[int, int]:
    """Return the (height, width) that shows most pixels of a page with least margins; the first of equal ones.

    Source: transformers `image_processing_utils.select_best_resolution`.
    """

    def fit(resolution: tuple[int, int]) -> tuple[int, int]:
        rows, columns = resolution
        scale = min(columns / width, rows / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        return shown, shown - rows * columns

    rows, columns = max(policy.resolutions, key=fit)
    return rows, columns


def _within(page: Image.Image, resolution: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Return the page inside a black image of (height, width), its aspect ratio kept.

    Sides are rounded up, and the odd pixel of a margin is at the right or the bottom. Source: transformers
    `image_processing_utils.get_patch_output_size`, `LlavaNextImageProcessorPil`.
    """
    height, width = resolution
    scale_x, scale_y = width / page.width, height / page.height
    if scale_x < scale_y:
        size = width, min(math.ceil(page.height * scale_x), height)
    else:
        size = min(math.ceil(page.width * scale_y), width), height
    whole = Image.new("RGB", (width, height))
    whole.paste(page.resize(size, resample), ((width - size[0]) // 2, (height - size[1]) // 2))
    return whole
