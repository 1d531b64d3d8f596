"""Videos: their frames are read when it is their turn, and sent together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from periscope_client import AsyncRetriever, Embeddings, Retriever, UnknownModel, pdf_pages
from periscope_client._endpoint import Protocol
from periscope_client._items import ImageItem

from .vectors import expected_late, same


def frame(width: int) -> Image.Image:
    return Image.new("RGB", (width, 5), (width % 256, 20, 30))


def pictures(*frames: ImageItem) -> Iterator[ImageItem]:
    yield from frames


def pixels(*widths: int) -> bytes:
    return b"".join(frame(width).tobytes() for width in widths)


def test_every_kind_of_frame(rich: Retriever, tmp_path: Path, pdf: Path) -> None:
    frame(8).save(tmp_path / "0.png")
    frame(16).save(tmp_path / "1.png")
    first, second = tmp_path / "0.png", tmp_path / "1.png"
    videos = rich.embed_video(
        [[first, second], (frame(8), second.read_bytes()), pictures(str(first), frame(16)), [first]]
    )
    for video in videos[:3]:
        np.testing.assert_array_equal(video.late_vectors()[0], expected_late("document", pixels(8, 16), 3))
    np.testing.assert_array_equal(videos[3].late_vectors()[0], expected_late("document", pixels(8), 1))
    assert videos.names == [f"{first} (2 frames)", "8x5 image (2 frames)", "generator", str(first)]
    assert len(rich.embed_video([pdf_pages(pdf)])) == 1


def test_options(rich: Retriever) -> None:
    asked = rich.embed_video(
        iter([[frame(8)], [frame(16)]]), ["a", None], role="query", instruction="Find it.", dimensions=3
    )
    np.testing.assert_array_equal(asked.late_vectors()[0], expected_late("query/Find it.", pixels(8) + b"/a", 1))
    np.testing.assert_array_equal(asked.late_vectors()[1], expected_late("query/Find it.", pixels(16), 2))
    assert asked.dense_vectors().shape == (2, 3)
    assert same(rich.embed_video([[frame(8)]], ["a"], role="query", task="find", dimensions=3), asked[0])


def test_bad_videos(rich: Retriever, tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    videos = [[frame(8)], [], [frame(8), missing], [frame(8), b"?"], frame(8), "clip.mp4", 7, pdf_pages(missing)]
    kept = rich.embed_video(videos, on_error="keep")  # type: ignore[arg-type]
    messages = {index: str(error) for index, error in kept.errors.items()}
    assert sorted(messages) == list(range(1, 8))
    assert messages[1] == "item 1 (list): read: the video has no frames"
    assert f"read: frame 1 ({missing}): the file cannot be read (No such file or directory)" in messages[2]
    assert "preprocess: frame 1 cannot be decoded" in messages[3]
    assert "item 4 (8x5 image): read: a video is a collection of frames, which are images, not Image" in messages[4]
    assert "item 5 (clip.mp4): read: a video is a collection of frames, which are images, not str" in messages[5]
    assert "a video is a collection of frames, which are images, not int" in messages[6]
    assert "read: the file cannot be read" in messages[7]


def test_what_a_generator_raises_comes_through(rich: Retriever) -> None:
    def frames() -> Iterator[Image.Image]:
        yield frame(8)
        raise ZeroDivisionError("in the caller's own code")

    with pytest.raises(ZeroDivisionError, match="in the caller's own code"):
        rich.embed_video([frames()])


def test_misuse(rich: Retriever, retriever: Retriever) -> None:
    for wrong in ("clip.mp4", Path("clip.mp4"), frame(8), b"clip"):
        with pytest.raises(TypeError, match=r"write embed_video\(\[\[frame, frame\]\]\)"):
            rich.embed_video(wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownModel, match="'toy' does not embed videos, only texts and images"):
        retriever.embed_video([[frame(8)]])
    assert len(rich.embed_video([])) == 0


def test_async_equals_sync(rich: Retriever, url: str, protocol: Protocol) -> None:
    async def embed() -> Embeddings:
        async with AsyncRetriever(url, "rich", protocol=protocol) as other:
            return await other.embed_video([[frame(8), frame(16)]], ["a"], task="find")

    assert same(asyncio.run(embed()), rich.embed_video([[frame(8), frame(16)]], ["a"], task="find"))
