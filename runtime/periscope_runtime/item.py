"""Items before anything of them is read: texts, images and videos, as bytes, and all that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from periscope_runtime.errors import PreparationError
from periscope_runtime.kinds import ContentKind


class Item(NamedTuple):
    """One item: UTF-8 text, the bytes of image files, or those of a video's frames; images or a video may have a text
    beside them.
    """

    text: bytes | None = None
    images: Sequence[bytes] = ()
    video: Sequence[bytes] | None = None

    @property
    def kind(self) -> ContentKind:
        """The parts that the item holds. Raises `PreparationError` for nothing, and for images and a video in one."""
        if self.images and self.video is not None:
            raise PreparationError("holds an image and a video", "Send them as two items")
        beside: ContentKind = () if self.text is None else ("text",)
        if self.images:
            return ("image" if len(self.images) == 1 else "images", *beside)
        if self.video is not None:
            return ("video", *beside)
        if self.text is None:
            raise PreparationError("is empty", "Send a text, an image or a video")
        return beside


def decoded(text: bytes) -> str:
    """Return UTF-8 bytes as text. Raises `PreparationError`."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise PreparationError("is not valid UTF-8", "Send UTF-8 text") from None
