"""Contents of requests: a text, an image, the frames of a video, or several of these as one document."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

from periscope_client._documents import PdfPage
from periscope_client._errors import InvalidInput
from periscope_client._items import BrokenItem, encode_image, encode_text, item_name, shorten
from periscope_client._limits import READ, Limits
from periscope_client._tiff import TiffPage

# A str is a text here, while `embed_image` takes it for a path: a path is an os.PathLike.
RerankItem: TypeAlias = (
    "str | os.PathLike[str] | bytes | Image.Image | PdfPage | TiffPage | BrokenItem | Mapping[str, Any]"
)

SINGLE_IMAGE = (str, bytes, os.PathLike, Image.Image, PdfPage, TiffPage)
PARTS = ("text", "image", "video")


class Content(NamedTuple):
    """The bytes of a query or of a document to rerank: b"" or () where it has none of a kind, never all of them."""

    text: bytes = b""
    image: bytes = b""
    video: tuple[bytes, ...] = ()

    def kinds(self) -> list[str]:
        """Its kinds, of "text", "image" and "video"."""
        return [kind for kind, part in zip(PARTS, self, strict=True) if part]

    def size(self) -> int:
        """Its size in bytes."""
        return len(self.text) + len(self.image) + sum(map(len, self.video))


def encode_frames(video: object, limits: Limits) -> tuple[bytes, ...]:
    """The bytes of each frame. Slow, and may run the caller's iterator: call it in a thread. Raises InvalidInput."""
    if isinstance(video, SINGLE_IMAGE) or not isinstance(video, Iterable):
        raise InvalidInput(f"a video is a collection of frames, which are images, not {type(video).__name__}", READ)
    frames = tuple(_encode_each("frame", video, limits))
    if not frames:
        raise InvalidInput("the video has no frames", READ)
    return frames


def encode_several(images: Sequence[object], limits: Limits) -> tuple[bytes, ...]:
    """The bytes of several images of one item. Slow: call it in a thread. Raises InvalidInput."""
    found = tuple(_encode_each("image", images, limits))
    if not found:
        raise InvalidInput("the item has no images", READ)
    # At the end of a row the server would take an empty string for an image that is not there.
    for index, image in enumerate(found):
        if not image:
            raise InvalidInput(f"image {index} ({item_name(images[index])}): the image is empty (0 bytes)", READ)
    return found


def _encode_each(what: str, images: Iterable[object], limits: Limits) -> Iterator[bytes]:
    for index, image in enumerate(images):
        try:
            yield encode_image(image, limits)
        except InvalidInput as error:
            raise InvalidInput(f"{what} {index} ({item_name(image)}): {error.message}", error.step) from None


def encode_content(item: object, limits: Limits) -> Content:
    """The bytes of what `rerank` takes. Slow, as `encode_frames`. Raises InvalidInput."""
    if isinstance(item, str):
        content = Content(text=encode_text(item, limits))
    elif isinstance(item, Mapping):
        content = _encode_parts(item, limits)
    elif isinstance(item, bytes | os.PathLike | Image.Image | PdfPage | TiffPage | BrokenItem):
        content = Content(image=_full(encode_image(item, limits)))
    else:
        kind = type(item).__name__
        raise InvalidInput(
            f"a text (str), an image (path, bytes, PIL image) or a mapping is reranked, not {kind}", READ
        )
    if not content.kinds():
        # The server would take an empty string for a part that is not there.
        raise InvalidInput("it is empty: neither a text, nor an image, nor a video", READ)
    return content


def _encode_parts(parts: Mapping[Any, object], limits: Limits) -> Content:
    given = {name: part for name, part in parts.items() if part is not None}
    unknown = [name for name in given if name not in PARTS]
    if unknown:
        raise InvalidInput(f"a mapping holds 'text', 'image' or 'video', not {unknown[0]!r}", READ)
    if "image" in given and "video" in given:
        raise InvalidInput("a mapping holds an image or a video, not both", READ)
    return Content(
        text=encode_text(given["text"], limits) if "text" in given else b"",
        image=_full(encode_image(given["image"], limits)) if "image" in given else b"",
        video=encode_frames(given["video"], limits) if "video" in given else (),
    )


def _full(image: bytes) -> bytes:
    # As `encode_content` says: without this an empty file beside a text would be left out in silence.
    if not image:
        raise InvalidInput("the image is empty (0 bytes)", READ)
    return image


def describe_text(item: object) -> tuple[str, str]:
    """A text's name, which is the text itself, and what messages call it."""
    return (item, repr(shorten(item))) if isinstance(item, str) else (item_name(item),) * 2


def describe_image(item: object) -> tuple[str, str]:
    """An image's name, twice; of several images the first's, and how many there are."""
    return (_several(item, "images"),) * 2


def describe_video(item: object) -> tuple[str, str]:
    """A video's name, twice: its first frame and how many there are, where that is known before they are read."""
    return (_several(item, "frames"),) * 2


def _several(item: object, what: str) -> str:
    if isinstance(item, Sequence) and not isinstance(item, SINGLE_IMAGE) and item:
        first = item_name(item[0])
        return first if len(item) == 1 else f"{first} ({len(item)} {what})"
    return item_name(item)


def describe_content(item: object) -> tuple[str, str]:
    """The name of what `rerank` takes: that of the image or video, else the text."""
    if isinstance(item, Mapping):
        for name, describe in (("image", describe_image), ("video", describe_video), ("text", describe_text)):
            if item.get(name) is not None:
                return describe(item[name])
    return describe_text(item)
