"""Form fields and annotations of a PDF page that PDFium cannot draw."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import pypdfium2.raw as pdfium_c

HIDDEN = pdfium_c.FPDF_ANNOT_FLAG_HIDDEN | pdfium_c.FPDF_ANNOT_FLAG_NOVIEW

# Annotations that show something on a page. Most of them PDFium draws even where the file has no picture of them.
MARKS = {
    pdfium_c.FPDF_ANNOT_FREETEXT,
    pdfium_c.FPDF_ANNOT_LINE,
    pdfium_c.FPDF_ANNOT_SQUARE,
    pdfium_c.FPDF_ANNOT_CIRCLE,
    pdfium_c.FPDF_ANNOT_POLYGON,
    pdfium_c.FPDF_ANNOT_POLYLINE,
    pdfium_c.FPDF_ANNOT_HIGHLIGHT,
    pdfium_c.FPDF_ANNOT_UNDERLINE,
    pdfium_c.FPDF_ANNOT_SQUIGGLY,
    pdfium_c.FPDF_ANNOT_STRIKEOUT,
    pdfium_c.FPDF_ANNOT_STAMP,
    pdfium_c.FPDF_ANNOT_INK,
}
FIELD = pdfium_c.FPDF_ANNOT_WIDGET
CHECKED = {pdfium_c.FPDF_FORMFIELD_CHECKBOX, pdfium_c.FPDF_FORMFIELD_RADIOBUTTON}

# In an appearance that PDFium has made: a font for characters that the field's own lacks, named by their character set.
# It is looked for on this machine, and where there is none nothing is drawn.
FOREIGN_FONT = re.compile(r"/_[0-9A-F]{2} [0-9.]+ Tf")

# PDFium's length of a text that is empty: its end, in UTF-16.
EMPTY = 2


def not_drawn(page: Any, form: Any) -> list[str]:
    """Contents of a page of pypdfium2 that its picture will or may not show, and why; nothing twice.

    form: the form that the page belongs to, or None.
    """
    lost: set[str] = set()
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            kind = pdfium_c.FPDFAnnot_GetSubtype(annotation)
            if pdfium_c.FPDFAnnot_GetFlags(annotation) & HIDDEN:
                continue
            if kind in MARKS and not _pictured(annotation):
                lost.add("an annotation that cannot be drawn")
            elif kind == FIELD and (_shown(annotation) if form is None else _filled_unpictured(annotation, form)):
                lost.add("a form field that cannot be drawn")
            elif kind == FIELD and FOREIGN_FONT.search(_appearance(annotation)):
                lost.add("a form field without appearance, drawn only if a font of this machine has its characters")
        finally:
            pdfium_c.FPDFPage_CloseAnnot(annotation)
    return sorted(lost)


def _pictured(annotation: Any) -> bool:
    """Whether the file has an appearance of it, or PDFium has made one when it loaded the page."""
    return len(_appearance(annotation)) > 0


def _appearance(annotation: Any) -> str:
    """The operators that draw it, each byte a character."""
    mode = pdfium_c.FPDF_ANNOT_APPEARANCEMODE_NORMAL
    size = pdfium_c.FPDFAnnot_GetAP(annotation, mode, None, 0)
    buffer = (ctypes.c_ushort * (size // EMPTY))()
    pdfium_c.FPDFAnnot_GetAP(annotation, mode, buffer, size)
    return bytes(buffer).decode("utf-16-le", "replace").rstrip("\0")


def _shown(annotation: Any) -> bool:
    """Whether a field that belongs to no form shows something elsewhere, or would."""
    return _pictured(annotation) or bool(pdfium_c.FPDFAnnot_HasKey(annotation, b"V"))


def _filled_unpictured(annotation: Any, form: Any) -> bool:
    """Whether a field holds a value that nothing shows."""
    if pdfium_c.FPDFAnnot_GetFormFieldType(form, annotation) in CHECKED:
        # A box that is not checked has the value of its group, and needs no appearance.
        filled = bool(pdfium_c.FPDFAnnot_IsChecked(form, annotation))
    else:
        filled = pdfium_c.FPDFAnnot_GetFormFieldValue(form, annotation, None, 0) > EMPTY
    return filled and not _pictured(annotation)
