"""PDF files written by hand: forms, annotations, passwords, and files that are not as they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

CATALOG, PAGES, FIRST = 1, 2, 3

FIELD = b"/Type /Annot /Subtype /Widget /F 4 /Rect [20 20 180 80]"
TEXT = FIELD + b" /FT /Tx /T (name) /DA (/Helv 12 Tf 0 g)"

_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def pdf_file(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A file of objects, numbered from 1, the first its catalog."""
    data = bytearray(b"%PDF-1.7\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (len(objects) + 1, trailer)
    return bytes(data) + b"startxref\n%d\n%%%%EOF\n" % table


def stream(content: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), more, content)


def picture(content: bytes) -> bytes:
    """The look of a field or an annotation: operators on 160 x 60 points."""
    return stream(content, b"/Type /XObject /Subtype /Form /BBox [0 0 160 60]")


def blank(sizes: Sequence[tuple[float, float]], catalog: bytes = b"", trailer: bytes = b"") -> bytes:
    """Empty pages of so many points."""
    kids = b" ".join(b"%d 0 R" % (FIRST + place) for place in range(len(sizes)))
    return pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
            b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(sizes)),
            *(b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %g %g] >>" % size for size in sizes),
        ],
        trailer,
    )


def annotated(annotation: bytes, *more: bytes, form: bytes | None = b"", pages: int = 1) -> bytes:
    """Pages of 200 x 100 points with one annotation each, object 3; `more` are objects from 4 on.

    It is the field of a form with these entries, unless that is None.
    """
    first = 5 + len(more)
    acroform = b"" if form is None else b"/AcroForm << /Fields [3 0 R] /DR << /Font << /Helv 4 0 R >> >> %s >>" % form
    return pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R %s >>" % acroform,
            b"<< /Type /Pages /Kids [%s] /Count %d >>"
            % (b" ".join(b"%d 0 R" % (first + page) for page in range(pages)), pages),
            b"<< %s >>" % annotation,
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            *more,
            *[b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Annots [3 0 R] >>"] * pages,
        ]
    )


def locked(password: str) -> bytes:
    """A blank page, encrypted with 40 bits as PDF 1.1 was."""
    padded = (password.encode() + _PADDING)[:32]
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    rights, name = b"\xfc\xff\xff\xff", b"0123456789abcdef"
    user = _rc4(hashlib.md5(padded + owner + rights + name).digest()[:5], _PADDING)
    handler = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4 >>" % (
        owner.hex().encode(),
        user.hex().encode(),
    )
    return blank([(200, 100)], trailer=handler + b" /ID [<%s> <%s>]" % ((name.hex().encode(),) * 2))


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    out = bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
