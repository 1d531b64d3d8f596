"""Image files against the server's limits before they are read, kinds that it does not read, and deep grey values."""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from periscope_client import ContentWarning, InvalidInput, ItemsFailed, Limits, Retriever, pdf_pages
from periscope_client._contents import encode_content, encode_frames
from periscope_client._items import encode_image, encode_text, open_image
from periscope_client._transport import Tensors
from periscope_runtime import grey

from .fake import FakeTransport, Outputs, answer, config
from .pdfs import blank
from .vectors import same


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""
    parts = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def limited(transport: FakeTransport) -> FakeTransport:
    """A server that takes images of 600 pixels and 10000 bytes, and texts of 10 bytes."""
    transport.description = config()
    for name, value in (("image_pixels", "600"), ("image_bytes", "10000"), ("text_bytes", "10")):
        transport.description["parameters"][name] = {"string_value": value}
    return transport


@pytest.mark.parametrize("side", [25, 10_000, 14_000, 30_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_not_sent(limited: FakeTransport, side: int) -> None:
    with Retriever("fake:1", "toy", transport=limited) as retriever, pytest.raises(ItemsFailed) as caught:
        retriever.embed_image([declared(side, side)])
    (error,) = caught.value.errors.values()
    has = f"{side} x {side}" if side < 14_000 else "more than 89478485"
    assert str(error.cause).startswith(f"read: the image has {has} pixels, above the server's limit of 600. Send a")
    assert limited.asked == []


def test_pillows_own_limit_is_not_the_servers() -> None:
    data = declared(20_000, 20_000)
    assert encode_image(data, Limits(image_pixels=400_000_000)) == data
    assert encode_image(data) == data


def test_too_many_bytes_are_not_read(limited: FakeTransport, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.write(encoded(noise(5, 5), "PNG"))
        file.truncate(1 << 40)  # more than there is memory
    with Retriever("fake:1", "toy", transport=limited) as retriever:
        embeddings = retriever.embed_image([path, noise(30, 20), noise(30, 21)], on_error="keep")
        reasons = {place: str(error.cause) for place, error in embeddings.errors.items()}
        assert sorted(reasons) == [0, 2]
        assert reasons[0].startswith(f"read: the image has {1 << 40} bytes, above the server's limit of 10000. Send a")
        assert reasons[2].startswith("read: the image has 30 x 21 pixels, above the server's limit of 600")
        with pytest.raises(
            ItemsFailed, match=r"the text has 11 bytes, above the server's limit of 10\. Send a smaller"
        ):
            retriever.embed_text(["a" * 10, "é" * 5 + "a"])
    assert len(limited.asked) == 2
    assert encode_text("é" * 5, Limits(text_bytes=10)) == "é".encode() * 5


def test_a_page_is_sent_within_the_limits(limited: FakeTransport) -> None:
    sent: list[tuple[int, int]] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        content = inputs["IMAGE"][0, 0]
        with Image.open(io.BytesIO(content)) as image:
            sent.append(image.size)
        return answer()

    limited.reply = reply
    pages = pdf_pages(blank([(14400, 14400), (15, 10)]))
    with (
        Retriever("fake:1", "toy", transport=limited) as retriever,
        pytest.warns(ContentWarning, match=r"page 1 is rendered at 0\.12"),
    ):
        assert len(retriever.embed_image(pages)) == 2
    assert sorted(sent) == [(24, 24), (30, 20)]


def test_limits_hold_for_frames_and_documents() -> None:
    limits = Limits(image_pixels=600, text_bytes=10)
    with pytest.raises(InvalidInput, match=r"frame 1 \(30x21 image\): the image has 30 x 21 pixels"):
        encode_frames([noise(30, 20), noise(30, 21)], limits)
    for content in (noise(30, 21), {"image": noise(30, 21)}, {"video": [noise(30, 21)]}):
        with pytest.raises(InvalidInput, match="30 x 21 pixels"):
            encode_content(content, limits)
    for text in ("a" * 11, {"text": "a" * 11}):
        with pytest.raises(InvalidInput, match="the text has 11 bytes"):
            encode_content(text, limits)


@pytest.mark.parametrize("file_format", ["BMP", "AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_what_the_server_does_not_read_is_decoded_here(
    retriever: Retriever, tmp_path: Path, file_format: str, mode: str
) -> None:
    image = Image.linear_gradient("L").resize((64, 48)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize((64, 48)).rotate(180))
    path = tmp_path / "picture.of"
    if file_format == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(image).save(path)
        seen = pillow_heif.open_heif(path).to_pillow()
    else:
        path.write_bytes(encoded(image, file_format))
        seen = Image.open(path)
    with seen:
        seen.load()
        with Image.open(io.BytesIO(encode_image(path))) as sent:
            assert (sent.format, sent.mode, sent.tobytes()) == ("PNG", seen.mode, seen.tobytes())
        embeddings = retriever.embed_image([path, path.read_bytes(), seen])
    assert same(embeddings[0], embeddings[2])
    assert same(embeddings[1], embeddings[2])
    assert open_image(path).size == (64, 48)
    with pytest.raises(InvalidInput, match="64 x 48 pixels, above the server's limit of 1000"):
        encode_image(path, Limits(image_pixels=1000))
    with pytest.raises(InvalidInput, match="bytes, above the server's limit of 100"):
        encode_image(path, Limits(image_bytes=100))


def test_a_photograph_is_turned_once(tmp_path: Path) -> None:
    """HEIF says itself how it is turned; its EXIF repeats that."""
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "photo.heic"
    pillow_heif.from_pillow(noise(64, 48)).save(path, exif=exif.tobytes())
    with Image.open(io.BytesIO(encode_image(path))) as sent:
        assert sent.size == (48, 64)


def test_damaged_files_of_these_kinds(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(noise(64, 48)).save(file)
    avif, bmp = encoded(noise(64, 48), "AVIF"), encoded(noise(64, 48), "BMP")
    for data in (file.getvalue()[:-400], file.getvalue()[:40], avif[:-400], avif[:40], bmp[:-400]):
        with pytest.raises(InvalidInput, match=r"cannot be decoded \("):
            encode_image(data)


HEIC_HEAD = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mif1", 0, b"mif1", b"heic")
AVIF_HEAD = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mif1", 0, b"avif", b"mif1")


def test_what_is_missing_to_read_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InvalidInput, match=r"a HEIC file, which needs the extra heif: pip install pillow-heif"):
        encode_image(HEIC_HEAD)
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InvalidInput, match=r"this Pillow cannot read AVIF files: pip install 'pillow>=11.3'"):
        encode_image(AVIF_HEAD)
    # A film is of the same family, and the server says that it is no image.
    film = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"mp42")
    assert encode_image(film) == film


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe, data = tmp_path / "pipe", encoded(noise(40, 30), "PNG")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(data))
    writer.start()
    assert encode_image(pipe) == data
    writer.join()


Values = npt.NDArray[Any]
RAMP = np.arange(256).reshape(16, 16)
DEEP: dict[str, tuple[str, Values]] = {
    "8 bits in 16": ("I;16", RAMP.astype(np.uint16)),
    "12 bits": ("I;16", RAMP.astype(np.uint16) * 16),
    "16 bits": ("I;16", RAMP.astype(np.uint16) * 257),
    "16 bits, other order": ("I;16B", RAMP.astype(">u2") * 257),
    "32 bits": ("I", RAMP.astype(np.int32) * 70_000 - 9),
    "fractions": ("F", (RAMP / 255).astype(np.float32)),
    "bytes in floating point": ("F", (RAMP * 0.99).astype(np.float32)),
    "floating point": ("F", RAMP.astype(np.float32) * 17 - 3.5),
    "holes": ("F", np.where(RAMP % 7 == 0, np.nan, RAMP * 17.0).astype(np.float32)),
    "one value": ("F", np.full((16, 16), 700, np.float32)),
}


def deep_image(kind: str) -> Image.Image:
    mode, values = DEEP[kind]
    order = ">u2" if mode == "I;16B" else values.dtype
    return Image.frombytes(mode, (16, 16), values.astype(order).tobytes())


@pytest.mark.parametrize("kind", DEEP)
def test_deep_values_reach_the_server_and_are_drawn_about_as_it_sees_them(kind: str) -> None:
    image = deep_image(kind)
    with pytest.warns(ContentWarning, match="16x16 image: grey values of more than 8 bits are scaled to 8, so that"):
        content = encode_image(image)
    with Image.open(io.BytesIO(content)) as sent:
        np.testing.assert_array_equal(np.asarray(sent), DEEP[kind][1])
        seen_HW = np.asarray(grey.to_eight_bits(sent), int)
    with pytest.warns(ContentWarning):
        drawn_HWC = np.asarray(open_image(image), int)
    assert np.abs(drawn_HWC - seen_HW[..., None]).max() <= 3


def test_a_deep_file_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    deep_image("16 bits").save(path)
    with pytest.warns(ContentWarning) as caught:
        assert encode_image(path) == path.read_bytes()
    assert [str(warning.message).partition(": ")[0] for warning in caught] == [str(path)]


def test_a_transparent_deep_value_stays_transparent() -> None:
    image = deep_image("16 bits")
    image.info["transparency"] = 257
    with pytest.warns(ContentWarning), Image.open(io.BytesIO(encode_image(image))) as sent:
        assert sent.info["transparency"] == 257
