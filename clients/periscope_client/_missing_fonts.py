"""Text of a PDF page that PDFium draws as nothing, because neither the file nor this machine has its font."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pypdfium2.raw as pdfium_c

# Objects that are tried of a font before all of its text counts as not drawn: some hold nothing but spaces.
TRIED = 16
NESTED = 8
# Pixels that a line of text is high at least when it is tried, how much it is enlarged for that at most, and how many
# pixels it is long at most.
TRIED_HEIGHT, ENLARGED, LONGEST = 12, 64, 2048

# Text that is there to be found, as scanners put it over the picture, and text that only cuts out.
UNSEEN = {pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium_c.FPDF_TEXTRENDERMODE_CLIP}


def has_missing_font(document: Any, page: Any) -> bool:
    """Whether a page of pypdfium2 has text in a font of which nothing can be drawn."""
    blank: dict[int, list[Any]] = {}  # by font: its objects that showed nothing
    drawn = set()
    for text in _texts(page):
        font = pdfium_c.FPDFTextObj_GetFont(text)
        key = ctypes.addressof(font.contents) if font else 0
        if not key or key in drawn or len(blank.get(key, ())) >= TRIED:
            continue
        if pdfium_c.FPDFFont_GetIsEmbedded(font) or _draws(document, page, text):
            drawn.add(key)
        else:
            blank.setdefault(key, []).append(text)
    lost = [text for key, texts in blank.items() if key not in drawn for text in texts]
    return bool(lost) and _says_something(page, lost)


def _texts(page: Any) -> Iterator[Any]:
    """The objects of visible text on a page, those in its forms too."""
    places = [(pdfium_c.FPDFPage_CountObjects, pdfium_c.FPDFPage_GetObject, page, 0)]
    while places:
        count, get, holder, depth = places.pop()
        for index in range(count(holder)):
            thing = get(holder, index)
            kind = pdfium_c.FPDFPageObj_GetType(thing)
            if kind == pdfium_c.FPDF_PAGEOBJ_FORM and depth < NESTED:
                places.append((pdfium_c.FPDFFormObj_CountObjects, pdfium_c.FPDFFormObj_GetObject, thing, depth + 1))
            elif kind == pdfium_c.FPDF_PAGEOBJ_TEXT and pdfium_c.FPDFTextObj_GetTextRenderMode(thing) not in UNSEEN:
                yield thing


def _draws(document: Any, page: Any, text: Any) -> bool:
    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    pdfium_c.FPDFPageObj_GetBounds(text, left, bottom, right, top)
    width, height = right.value - left.value, top.value - bottom.value
    scale = min(max(1, TRIED_HEIGHT / max(height, 1e-6)), ENLARGED, LONGEST / max(width, height, 1))
    bitmap = pdfium_c.FPDFTextObj_GetRenderedBitmap(document, page, text, scale)
    if not bitmap:
        return False
    try:
        size = pdfium_c.FPDFBitmap_GetStride(bitmap) * pdfium_c.FPDFBitmap_GetHeight(bitmap)
        return any(ctypes.string_at(pdfium_c.FPDFBitmap_GetBuffer(bitmap), size))
    finally:
        pdfium_c.FPDFBitmap_Destroy(bitmap)


def _says_something(page: Any, texts: list[Any]) -> bool:
    """Whether any of these is more than white space."""
    found = pdfium_c.FPDFText_LoadPage(page)
    try:
        for text in texts:
            size = pdfium_c.FPDFTextObj_GetText(text, found, None, 0)
            buffer = (ctypes.c_ushort * (size // 2 + 1))()
            pdfium_c.FPDFTextObj_GetText(text, found, buffer, size)
            if bytes(buffer).decode("utf-16-le", "replace").strip("\0 \t\r\n\xa0\u3000"):
                return True
        return False
    finally:
        pdfium_c.FPDFText_ClosePage(found)
