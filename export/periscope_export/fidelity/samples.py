"""Fixed pages, videos and queries that every export is measured on. Small, of different shapes: padding takes part."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from periscope_runtime.paths import PATHS

QUERIES = ("revenue by region", "Which month had the most visitors?", "energy", "total cost per unit in 2024")

# (width, height) in pixels; the second and the last are padded to the first one's bucket.
_PAGES = (
    ((336, 448), "Annual report", (30, 70, 120)),
    ((280, 224), "Visitors by month", (160, 60, 40)),
    ((420, 308), "Energy and cost", (40, 120, 70)),
    ((196, 476), "Revenue by region", (110, 50, 130)),
)


def sample_pages() -> list[bytes]:
    """Return the pages as PNG files: a heading, lines of text, a bar chart."""
    return [_draw(size, title, colour) for size, title, colour in _PAGES]


def sample_videos() -> list[list[bytes]]:
    """Return as many videos as there are pages, of one, two, three and four frames: the page's chart as it grows."""
    return [
        [_draw(size, title, colour, growth=(frame + 1) / frames) for frame in range(frames)]
        for frames, (size, title, colour) in enumerate(_PAGES, start=1)
    ]


def sample_name(path: str, row: int) -> str:
    """Return what a row of a path, given by its name, is called in messages."""
    of = PATHS[path]
    if not of.embedded:
        return f"{of.item} {row + 1}"
    # Of a system with more adapters than there are samples some come twice, with one adapter each.
    title, query = _PAGES[row % len(_PAGES)][1], QUERIES[row % len(QUERIES)]
    return f"the {of.item} {title!r}" if of.visual else f"the query {query!r}"


def _draw(size: tuple[int, int], title: str, colour: tuple[int, int, int], growth: float = 1.0) -> bytes:
    width, height = size
    page = Image.new("RGB", size, (252, 251, 248))
    pen = ImageDraw.Draw(page)
    pen.text((14, 10), title, font=ImageFont.load_default(20), fill=colour)
    for line in range(4):
        pen.text(
            (14, 44 + 16 * line),
            f"{line + 1}. {title.lower()} {37 * (line + 3) % 100}",
            font=ImageFont.load_default(12),
            fill=(40, 40, 40),
        )
    for bar in range(6):
        left = 16 + bar * (width - 32) // 6
        top = height - 12 - int(growth * ((bar * 53 + len(title) * 7) % (height // 3)))
        pen.rectangle((left, top, left + (width - 32) // 8, height - 12), fill=colour)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()
