"""Pages of a TIFF are pages, read one by one."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence, TiffImagePlugin

from periscope_client import ContentWarning, InvalidInput, Limits, Retriever, tiff_pages
from periscope_client._items import encode_image
from periscope_client._pages import file_page, file_pages
from periscope_client.console import main

from .vectors import same

PAGE, PREVIEW, MASK = 2, 1, 4


def tiff_file(images: Sequence[tuple[Image.Image, int]], tag: int = 254) -> bytes:
    """A file of images, each of the type that its tag says."""
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, new=True) as writer:
        for image, kind in images:
            image.save(writer, "TIFF", tiffinfo={tag: kind})
            writer.newFrame()
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def fax(tmp_path: Path) -> Path:
    """Three pages, each with a preview."""
    path = tmp_path / "fax.tif"
    preview = (noise(4, 3), PREVIEW)
    images = [one for seed in (1, 2, 3) for one in ((noise(20 * seed, 30, seed), PAGE), preview)]
    path.write_bytes(tiff_file(images))
    return path


def test_pages_in_order_without_previews(fax: Path) -> None:
    pages = list(tiff_pages(fax))
    assert [(page.path, page.number) for page in pages] == [(fax, 1), (fax, 2), (fax, 3)]
    assert [page.name for page in pages] == [f"{fax}, page {number}" for number in (1, 2, 3)]
    # In any order, and again.
    for place in (2, 0, 1, 2):
        assert pages[place].read(Limits()).tobytes() == noise(20 * (place + 1), 30, place + 1).tobytes()
    assert pages[0].image is pages[0].image
    with fax.open("rb") as file:
        assert [page.name for page in tiff_pages(file)] == [page.name for page in pages]
    assert [page.path for page in tiff_pages(fax.read_bytes())] == [None] * 3


def test_their_vectors_are_those_of_their_images(retriever: Retriever, fax: Path) -> None:
    embeddings = retriever.embed_image(tiff_pages(fax))
    assert same(embeddings, retriever.embed_image([noise(20, 30, 1), noise(40, 30, 2), noise(60, 30, 3)]))
    assert embeddings.names == [f"{fax}, page {number}" for number in (1, 2, 3)]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("tag", "kind"), [(254, PREVIEW), (254, MASK), (254, PREVIEW | MASK), (255, 2)])
def test_previews_and_masks_are_no_pages(before: bool, tag: int, kind: int) -> None:
    page, preview = (noise(40, 30), 0 if tag == 254 else 1), (noise(8, 6), kind)
    data = tiff_file([preview, page] if before else [page, preview], tag)
    (only,) = tiff_pages(data)
    assert only.image.tobytes() == noise(40, 30).tobytes()
    # One page is an image like any other, and it is the server that reads it.
    assert encode_image(data) == data
    (preview_alone,) = tiff_pages(tiff_file([(noise(8, 6), PREVIEW), (noise(4, 3), PREVIEW)]))
    assert preview_alone.image.size == (8, 6)


def test_a_page_is_turned_as_its_file_says() -> None:
    pages = []
    for orientation in (1, 6, 8):
        file = io.BytesIO()
        noise(20, 30).save(file, "TIFF", tiffinfo={274: orientation})
        pages.append(file.getvalue())
    expected = [Image.open(io.BytesIO(page)) for page in pages]
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, new=True) as writer:
        for orientation in (1, 6, 8):
            noise(20, 30).save(writer, "TIFF", tiffinfo={274: orientation})
            writer.newFrame()
    read = list(tiff_pages(file.getvalue()))
    for place in (1, 2, 0, 1):
        expected[place].load()
        assert read[place].read(Limits()).tobytes() == expected[place].tobytes()
        with Image.open(io.BytesIO(encode_image(read[place]))) as sent:
            assert (sent.size, sent.tobytes()) == (expected[place].size, expected[place].tobytes())


def test_several_pages_are_not_one_image(retriever: Retriever, fax: Path) -> None:
    with Image.open(fax) as image:
        kept = retriever.embed_image([fax, fax.read_bytes(), image, image.copy()], on_error="keep")
        frames = [frame.copy() for frame in ImageSequence.Iterator(image)]
    remedy = "read: this TIFF has several pages: embed periscope_client.tiff_pages(path)"
    assert [str(error.cause) for error in kept.errors.values()] == [
        remedy,
        remedy,
        "read: a PIL image over a TIFF of several images: embed image.copy() of the one that is meant, or "
        "periscope_client.tiff_pages(path)",
    ]
    assert same(kept[3], retriever.embed_image(frames)[0])


def damaged(data: bytes, page: int) -> bytes:
    """The file with a compression that nothing knows, in one of its pages."""
    parts = data.split(struct.pack("<HHII", 259, 3, 1, 1))
    unknown = [struct.pack("<HHII", 259, 3, 1, 0xBAD if place == page else 1) for place in range(1, len(parts))]
    return b"".join(part + entry for part, entry in zip(parts, [*unknown, b""], strict=True))


def test_a_broken_page_fails_alone(retriever: Retriever) -> None:
    data = damaged(tiff_file([(noise(9, 9, seed), PAGE) for seed in (1, 2, 3)]), 2)
    pages = list(tiff_pages(data))
    kept = retriever.embed_image(pages, on_error="keep")
    # And again, though Pillow thinks now that it is there.
    for _ in range(2):
        with pytest.raises(InvalidInput, match="the page cannot be decoded"):
            pages[1].read(Limits())
    (error,) = kept.errors.values()
    assert (error.index, error.name) == (1, f"{len(data)} bytes, page 2")
    assert str(error.cause).startswith("read: the page cannot be decoded (")
    assert same(kept[2], retriever.embed_image([noise(9, 9, 3)]))


def broken_off(pages: int) -> bytes:
    """A file whose last page says that another follows, where the file ends."""
    data = tiff_file([(noise(9, 9, seed), PAGE) for seed in range(pages)])
    (place,) = struct.unpack_from("<I", data, 4)
    for _ in range(pages):
        (entries,) = struct.unpack_from("<H", data, place)
        end = place + 2 + 12 * entries
        (place,) = struct.unpack_from("<I", data, end)
    return data[:end] + struct.pack("<I", len(data) - 1) + data[end + 4 :]


def test_bad_files(tmp_path: Path) -> None:
    for source, message in (
        (b"", r"the file is empty \(0 bytes\)"),
        (b"II*\0 and nothing more", r"the TIFF cannot be opened \("),
        (b"\x89PNG", r"the TIFF cannot be opened \(cannot identify image file\)"),
        (tmp_path / "missing.tif", "No such file"),
        (broken_off(2), r"the TIFF breaks off after page 2 \("),
    ):
        with pytest.raises(InvalidInput, match=message):
            list(tiff_pages(source))
    with pytest.raises(InvalidInput, match=r"the TIFF breaks off after page 1 \("):
        encode_image(broken_off(1))
    with pytest.raises(TypeError, match="a document is a path, bytes or an open file, not NoneType"):
        tiff_pages(None)  # type: ignore[arg-type]


def test_a_page_above_the_limits_is_not_decoded(fax: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = tiff_pages(fax)
    encode_image(first, Limits(image_pixels=600))
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(InvalidInput, match="the image has 40 x 30 pixels, above the server's limit of 600"):
        encode_image(second, Limits(image_pixels=600))


def test_deep_pages_are_said_once_a_file() -> None:
    values = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)
    data = tiff_file([(Image.fromarray(values), PAGE)] * 3)
    with pytest.warns(ContentWarning) as caught:
        sent = [encode_image(page) for page in tiff_pages(data)]
    assert [str(warning.message).partition(":")[0] for warning in caught] == [f"{len(data)} bytes"]
    with Image.open(io.BytesIO(sent[2])) as image:
        np.testing.assert_array_equal(np.asarray(image), values)


def test_files_of_the_commands(fax: Path, tmp_path: Path) -> None:
    single, off = tmp_path / "single.tiff", tmp_path / "no suffix"
    single.write_bytes(tiff_file([(noise(9, 9), 0), (noise(3, 3), PREVIEW)]))
    off.write_bytes(broken_off(1))
    assert [number for _, number in file_pages(fax, 144)] == [1, 2, 3]
    assert list(file_pages(single, 144)) == [(single, None)]
    assert file_page(single, None, 144) == single
    page = file_page(fax, 2, 144)
    assert not isinstance(page, Path)
    assert page.name == f"{fax}, page 2"
    with pytest.raises(InvalidInput, match="the TIFF has no page 4"):
        file_page(fax, 4, 144)
    pages = file_pages(off, 144)
    assert next(pages)[1] == 1
    with pytest.raises(InvalidInput, match="breaks off after page 1"):
        next(pages)


def test_search_and_embed(server_options: list[str], fax: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fax.write_bytes(tiff_file([(noise(width, 30), PAGE) for width in (80, 120, 160)]))
    folder = fax.parent / "maps"
    assert main(["search", "q", str(fax), "--maps", str(folder), *server_options]) == 0
    out, err = capsys.readouterr()
    rows = [line.split(maxsplit=3) for line in out.splitlines()[1:4]]
    assert sorted(row[2:] for row in rows) == [[str(number), str(fax)] for number in (1, 2, 3)]
    assert err == ""
    assert len(list(folder.iterdir())) == 3

    output = fax.parent / "vectors.npz"
    broken = fax.parent / "broken.tif"
    broken.write_bytes(broken_off(1))
    assert main(["embed", str(fax), str(broken), "--output", str(output), *server_options]) == 1
    out, err = capsys.readouterr()
    assert "4 items" in out
    assert f"periscope embed: {broken}: read: the TIFF breaks off after page 1 (" in err


@pytest.fixture
def server_options(url: str, protocol: str) -> list[str]:
    return ["--url", url, "--protocol", protocol, "--model", "toy"]


def test_what_is_lost_is_a_line_on_stderr(
    server_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path / "deep.tif"
    deep.write_bytes(tiff_file([(Image.fromarray(np.full((9, 9), 40000, np.uint16)), PAGE)] * 3))
    for _ in range(2):
        assert main(["embed", str(deep), "--output", str(tmp_path / "v.npz"), *server_options]) == 0
        line, *others = capsys.readouterr().err.splitlines()
        assert line.startswith(f"periscope embed: {deep}: grey values of more than 8 bits are scaled to 8")
        assert others == []
