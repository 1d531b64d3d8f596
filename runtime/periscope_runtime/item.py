"""What is prepared: texts, images, videos and what goes with them, as bytes, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import ContentKind


class Item(NamedTuple):
    """One item: UTF-8 text, the bytes of an image file, or those of a video's frames; an image or a video may have a
    text beside it.
    """

    text: bytes | None = None
    image: bytes | None = None
    video: Sequence[bytes] | None = None

    @property
    def kind(self) -> ContentKind:
        """What the item holds. Raises `PreparationError` for nothing, and for an image and a video in one."""
        if self.image is not None and self.video is not None:
            raise PreparationError("holds an image and a video", "Send them as two items")
        if self.image is not None:
            return "image" if self.text is None else "image_text"
        if self.video is not None:
            return "video" if self.text is None else "video_text"
        if self.text is None:
            raise PreparationError("is empty", "Send a text, an image or a video")
        return "text"


def decoded(text: bytes) -> str:
    """Return UTF-8 bytes as text. Raises `PreparationError`."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise PreparationError("is not valid UTF-8", "Send UTF-8 text") from None
