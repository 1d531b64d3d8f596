"""Forms of a PDF: filled fields and annotations are on its pages, and whatever cannot be drawn is said."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest

from periscope_client import ContentWarning, pdf_pages

from .pdfs import FIELD, TEXT, annotated, pdf_file, picture, stream

SQUARE = b"10 10 100 40 re f"


def page(data: bytes) -> npt.NDArray[np.uint8]:
    """The first page in grey, a pixel a point; no warning may come with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(next(pdf_pages(data, dpi=72)).image.convert("L"))


@pytest.mark.parametrize(
    "field",
    [
        b"/FT /Tx /T (a) /V (x) /AP << /N 5 0 R >>",
        b"/FT /Btn /T (a) /V /Yes /AS /Yes /AP << /N << /Yes 5 0 R >> >>",
        b"/FT /Btn /Ff 32768 /T (a) /V /Yes /AS /Yes /AP << /N << /Yes 5 0 R >> >>",
        b"/FT /Ch /Ff 131072 /T (a) /V (x) /Opt [(x)] /AP << /N 5 0 R >>",
        b"/FT /Ch /T (a) /V (x) /Opt [(x)] /AP << /N 5 0 R >>",
        b"/FT /Sig /T (a) /V << /Type /Sig >> /AP << /N 5 0 R >>",
    ],
    ids=["text", "check box", "radio button", "combo box", "list box", "signature"],
)
@pytest.mark.parametrize("form", [b"", b"/XFA 6 0 R"], ids=["", "XFA beside it"])
def test_a_field_is_drawn_as_its_file_has_it(field: bytes, form: bytes) -> None:
    printed = pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R >>",
            stream(b"1 0 0 1 20 20 cm " + SQUARE),
        ]
    )
    filled = page(annotated(FIELD + field, picture(SQUARE), stream(b"<xdp/>"), form=form))
    assert (filled < 250).sum() == 4000
    np.testing.assert_array_equal(filled, page(printed))


@pytest.mark.parametrize("form", [b"", b"/NeedAppearances true"])
@pytest.mark.parametrize(
    ("field", "other"),
    [
        (TEXT + b" /V (first)", TEXT + b" /V (other)"),
        (
            FIELD + b" /FT /Btn /T (a) /V /Yes /AS /Yes /MK << /CA (4) >>",
            FIELD + b" /FT /Btn /T (a) /V /Off /AS /Off /MK << /CA (4) >>",
        ),
        (
            TEXT.replace(b"/Tx", b"/Ch /Ff 131072") + b" /Opt [(one) (two)] /V (one)",
            TEXT.replace(b"/Tx", b"/Ch /Ff 131072") + b" /Opt [(one) (two)] /V (two)",
        ),
    ],
    ids=["text", "check box", "combo box"],
)
def test_a_field_without_appearance_is_drawn_from_its_value(field: bytes, other: bytes, form: bytes) -> None:
    first, second = page(annotated(field, form=form)), page(annotated(other, form=form))
    assert (first < 128).any()
    assert (first != second).any()


def test_an_appearance_that_is_out_of_date_gives_way_to_the_value() -> None:
    stale = TEXT + b" /V (first) /AP << /N 5 0 R >>"
    fresh = page(annotated(TEXT + b" /V (first)"))
    np.testing.assert_array_equal(page(annotated(stale, picture(b""), form=b"/NeedAppearances true")), fresh)


@pytest.mark.parametrize(
    "annotation",
    [
        TEXT,
        TEXT.replace(b"/F 4", b"/F 2") + b" /V (hidden)",
        FIELD + b" /FT /Sig /T (a)",
        FIELD + b" /FT /Btn /Ff 32768 /T (a) /V /b /AS /Off /AP << /N << /a 5 0 R >> >>",
        b"/Type /Annot /Subtype /Link /Rect [0 0 9 9]",
    ],
    ids=["an empty field", "a hidden one", "an unsigned one", "a radio button that is not chosen", "a link"],
)
def test_what_shows_nothing_is_not_missed(annotation: bytes) -> None:
    page(annotated(annotation, picture(SQUARE)))


@pytest.mark.parametrize(
    ("annotation", "form", "text"),
    [
        (
            b"/Type /Annot /Subtype /Stamp /Name /Approved /F 4 /Rect [20 20 180 80]",
            None,
            "has an annotation that cannot",
        ),
        (FIELD + b" /FT /Tx /T (a) /V (x) /AP << /N 5 0 R >>", None, "has a form field that cannot be drawn"),
        (FIELD + b" /FT /Tx /T (a) /V (x)", None, "has a form field that cannot be drawn"),
        (
            TEXT + b" /V <FEFF65E5672C>",
            b"",
            "has a form field without appearance, drawn only if a font of this machine has its characters",
        ),
    ],
    ids=["a stamp without appearance", "a field without a form", "its value alone", "characters of another script"],
)
def test_what_cannot_be_drawn_is_said_once_a_file(annotation: bytes, form: bytes | None, text: str) -> None:
    data = annotated(annotation, picture(SQUARE), form=form, pages=3)
    with pytest.warns(ContentWarning) as caught:
        assert [one.image.size for one in pdf_pages(data)] == [(400, 200)] * 3
    (warning,) = caught
    assert f"{len(data)} bytes: page 1 {text}" in str(warning.message)


def test_a_form_that_is_xfa_alone_is_said(caplog: pytest.LogCaptureFixture) -> None:
    data = annotated(TEXT, stream(b"<xdp/>"), form=b"/XFA 5 0 R")
    data = data.replace(b"/Catalog /Pages", b"/Catalog /NeedsRendering true /Pages")
    with pytest.warns(ContentWarning, match="an XFA form, whose fields are not drawn: print it to a PDF"):
        next(pdf_pages(data))
    # pypdfium2's own words are for those who compile it.
    assert not caplog.records


def written(font: bytes, text: bytes, mode: int = 0, size: float = 20) -> bytes:
    """A page with a text in a font, whose file is not embedded."""
    return pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R "
            b"/Resources << /Font << /F 5 0 R >> >> >>",
            stream(b"BT /F %g Tf %d Tr 20 40 Td %s Tj ET" % (size, mode, text)),
            font,
            b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /CIDSystemInfo 7 0 R "
            b"/FontDescriptor 8 0 R >>",
            b"<< /Registry (Adobe) /Ordering (GB1) /Supplement 0 >>",
            b"<< /Type /FontDescriptor /FontName /STSong-Light /Flags 6 /FontBBox [-25 -254 1000 880] /ItalicAngle 0 "
            b"/Ascent 752 /Descent -271 /CapHeight 737 /StemV 58 >>",
        ]
    )


SONG = b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [6 0 R] >>"
LATIN = b"<< /Type /Font /Subtype /Type1 /BaseFont /Arial >>"
CHINESE = b"<4F60597D>"


def test_text_in_a_font_that_is_nowhere_is_said() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = next(pdf_pages(written(SONG, CHINESE), dpi=72)).image.convert("L")
    blank = not (np.asarray(image) < 128).any()
    assert [("text that is not drawn, in a font" in str(one.message)) for one in caught] == [True] * blank


@pytest.mark.parametrize(
    "data",
    [
        written(LATIN, b"(abc)"),
        written(LATIN, b"(tiny)", size=0.2),
        written(LATIN, b"(   )"),
        written(SONG, CHINESE, mode=3),
        written(SONG, b"<00203000>"),
    ],
    ids=["another font instead", "tiny", "spaces", "the invisible text of a scan", "wide spaces"],
)
def test_text_that_is_drawn_or_shows_nothing_is_not_missed(data: bytes) -> None:
    page(data)
