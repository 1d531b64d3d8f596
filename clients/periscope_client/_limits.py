"""Limits of what one item may cost the server, checked before anything is read, rendered or sent."""

from __future__ import annotations

from dataclasses import dataclass

from periscope_client._errors import InvalidInput

READ = "read"  # the client's own step, beside the server's

# The limit of rendered pages where the server does not say: that of every recipe here.
DEFAULT_IMAGE_PIXELS = 64 << 20


@dataclass(frozen=True)
class Limits:
    """The most that the server takes of one item; None where it does not say.

    image_bytes, image_pixels: of an image.
    text_bytes: of a text in UTF-8.
    """

    image_bytes: int | None = None
    image_pixels: int | None = None
    text_bytes: int | None = None

    @property
    def page_pixels(self) -> int:
        """The most pixels that a page of a document is rendered with."""
        return self.image_pixels or DEFAULT_IMAGE_PIXELS

    def check_text(self, size: int) -> None:
        """Raises: InvalidInput for a text of more bytes."""
        if self.text_bytes is not None and size > self.text_bytes:
            raise refused("text", f"{size} bytes", self, "text_bytes")

    def check_bytes(self, size: int) -> None:
        """Raises: InvalidInput for an image file of more bytes."""
        if self.image_bytes is not None and size > self.image_bytes:
            raise refused("image", f"{size} bytes", self, "image_bytes")

    def check_pixels(self, size: tuple[int, int]) -> None:
        """Raises: InvalidInput for an image of more pixels, `size` being width and height."""
        width, height = size
        if self.image_pixels is not None and width * height > self.image_pixels:
            raise refused("image", f"{width} x {height} pixels", self, "image_pixels")


NO_LIMITS = Limits()


def refused(what: str, has: str, limits: Limits, name: str) -> InvalidInput:
    """The error of an item that has more than the limit of that name."""
    return InvalidInput(
        f"the {what} has {has}, above the server's limit of {getattr(limits, name)}. Send a smaller one, or raise the "
        f"limit: periscope export --set preparation.limits.{name}=...",
        READ,
    )
