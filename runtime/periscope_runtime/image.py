"""Image bytes to an RGB image, within limits that are checked before anything is decoded."""

from __future__ import annotations

import io

from PIL import ExifTags, Image, UnidentifiedImageError

from periscope_runtime.errors import PreparationError
from periscope_runtime.grey import is_deep, to_eight_bits
from periscope_runtime.recipe import Limits
from periscope_runtime.tiff import seek_page

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF")
_REMEDY = "Send a PNG, JPEG, WebP, GIF or TIFF file"
# The turn that undoes each EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def allow_pixels(limits: Limits) -> None:
    """Raise Pillow's own limit, which is the whole process's, where it would refuse what these allow."""
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.image_pixels)


def decode_image(data: bytes, limits: Limits) -> Image.Image:
    """Return an image file as RGB, turned upright (EXIF), transparency over white, deep grey values in 8 bits.

    Of an animation it is the first frame, of a TIFF its only page.

    Raises `PreparationError` for empty, oversized, unreadable and truncated data, and for a TIFF of several pages.
    """
    if not data:
        raise PreparationError("is empty (0 bytes)", _REMEDY)
    if len(data) > limits.image_bytes:
        raise PreparationError(
            f"has {len(data)} bytes, above the limit of {limits.image_bytes}", "Send a smaller file, or raise the limit"
        )
    try:
        with _open(data) as image:
            if image.format == "TIFF" and not seek_page(image):
                raise PreparationError("is a TIFF of several pages", "Send each page as an image of its own")
            _check_pixels(image, limits)
            image.load()
            return _to_rgb(_upright(image))
    except PreparationError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PreparationError(
            f"has more pixels than the limit of {limits.image_pixels}", "Send a smaller image, or raise the limit"
        ) from None
    # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        raise PreparationError(f"cannot be decoded ({_reason(error)})", _REMEDY) from None


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise PreparationError("is not an image that can be read", _REMEDY) from None


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.image_pixels:
        raise PreparationError(
            f"has {width} x {height} pixels, above the limit of {limits.image_pixels}",
            "Send a smaller image, or raise the limit",
        )


def _upright(image: Image.Image) -> Image.Image:
    """Turn as the EXIF orientation says. A loaded TIFF is turned already and says nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Metadata that cannot be read is no reason to refuse pixels that can.
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Composite over white where there is transparency, as the published image processors do.

    They let deep values saturate, to white or to black; what the page shows would be lost.
    """
    if is_deep(image):
        return to_eight_bits(image).convert("RGB")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    # Only the first line, and no object addresses: the text goes to the person who sent the image.
    return str(error).splitlines()[0].split(" <")[0] if str(error) else type(error).__name__
