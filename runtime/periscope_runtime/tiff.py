"""Pages of a TIFF file: its images without the previews and masks that belong to them."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image, TiffImagePlugin

# Tags of an image in the file, and what they say of one that is no page.
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101
SUBFILE_TYPE, REDUCED = 255, 2

# A pyramid with masks has a few dozen images. Looking for the second page must end.
MOST_IMAGES = 256


def seek_page(image: Image.Image) -> bool:
    """Go to the only page of an opened TIFF file, its first image where all are previews; False if there are more.

    Raises whatever Pillow stumbles over where the file breaks off.
    """
    if not getattr(image, "is_animated", False):
        return True
    pages = _pages(image)
    first, second = next(pages, 0), next(pages, None)
    if second is None:
        # Pillow thinks that it is where it has failed to go, with what it had before.
        image.seek(0)
        image.seek(first)
    return second is None


def _pages(image: Image.Image) -> Iterator[int]:
    """Go from image to image, and yield the numbers of those that are pages; what is never looked at may be one."""
    for index in range(MOST_IMAGES):
        try:
            image.seek(index)
        except EOFError:
            return
        # The tags may have been read, and say that what cannot be decoded is no page.
        except Exception:
            if image.tell() != index:
                raise
        if _is_page(image):
            yield index
    yield MOST_IMAGES


def _is_page(image: Image.Image) -> bool:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    kind, old_kind = image.tag_v2.get(NEW_SUBFILE_TYPE, 0), image.tag_v2.get(SUBFILE_TYPE, 0)
    return not (isinstance(kind, int) and kind & REDUCED_OR_MASK) and old_kind != REDUCED
