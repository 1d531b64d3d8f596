"""FILE arguments of the commands: folders, standard input, URLs, names that are not UTF-8, outputs."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from periscope_client import InvalidInput
from periscope_client._pages import file_pages
from periscope_client.commands._files import (
    STDIN,
    file_argument,
    find_files,
    image_of,
    lines_of,
    output_argument,
    require_folder,
    require_writable,
)
from periscope_client.console import main


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let standard input be this."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pages in two folders, with what else lies about."""
    made = tmp_path / "scans"
    for name in ("page-10.png", "page-2.PNG", "Page-1.jpg", "old/a.tiff", "notes.txt", ".hidden.png", ".git/b.png"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(b"?")
    (made / "report").write_bytes(b"%PDF-1.7")
    (made / "old" / "loop").symlink_to(made)
    (made / "link.png").symlink_to(made / "notes.txt")
    os.mkfifo(made / "pipe.png")
    return made


def test_a_folder_stands_for_what_is_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = folder / "notes.txt"
    found = find_files("embed", [first, folder])
    inside = ["link.png", "old/a.tiff", "Page-1.jpg", "page-2.PNG", "page-10.png", "report"]
    assert found == [first, *(folder / name for name in inside)]
    assert capsys.readouterr().err == (
        f"periscope embed: {folder}: 2 skipped, neither images nor PDFs by their names: notes.txt, pipe.png\n"
    )
    for number in range(9):
        (folder / f"{number}.csv").touch()
    find_files("embed", [folder])
    assert "11 skipped, neither images nor PDFs by their names: 0.csv, 1.csv, 2.csv, 3.csv, 4.csv, 6 more\n" in (
        capsys.readouterr().err
    )


def test_a_folder_with_nothing_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.png"
    page.touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert find_files("search", [empty, page]) == [page]
    line = f"periscope search: {empty}: there is no image and no PDF in this folder\n"
    assert capsys.readouterr().err == line
    # Before any server is asked.
    assert main(["search", "q", str(empty), "--url", "127.0.0.1:9"]) == 1
    assert capsys.readouterr().err == line + "periscope search: there are no files to read\n"


@pytest.mark.parametrize("data", [b"a.png\n\nfolder b/c.pdf\r\n-\n", b"a.png\0folder b/c.pdf\0-\0"])
def test_a_list_of_paths_on_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    pipe(monkeypatch, data)
    assert find_files("embed", [Path("first.png"), STDIN]) == [
        Path(name) for name in ("first.png", "a.png", "folder b/c.pdf", "-")
    ]


def test_standard_input_that_lists_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for data, message in (
        (b"", "there are no files to read"),
        (b"%PDF-1.7 ...", "this is a document itself: name its file"),
        (b"a.png\nhttps://example.org/b.png\n", "'https://example.org/b.png' on standard input is a URL"),
    ):
        pipe(monkeypatch, data)
        with pytest.raises(InvalidInput, match=message):
            find_files("embed", [STDIN])


def test_a_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for read in (lambda: find_files("embed", [STDIN]), lambda: lines_of(STDIN), lambda: image_of(STDIN)):
        with pytest.raises(InvalidInput, match="standard input is closed"):
            read()


def test_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "page.png")
    for file in (tmp_path / "page.png", Path(os.devnull)):
        with pytest.raises(InvalidInput, match="a pipe or a device"):
            next(file_pages(file, 144))


def test_a_file_that_is_called_like_standard_input() -> None:
    assert file_argument("-") is STDIN
    assert file_argument("./-") is not STDIN


@pytest.mark.parametrize("url", ["http://example.org/a.png", "s3://bucket/a.pdf", "file:///a.png"])
def test_urls_are_refused(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        output_argument(url)
    page, output = str(tmp_path / "a.png"), str(tmp_path / "v.npz")
    for arguments in (
        ["embed", page, url, "--output", output],
        ["embed", page, "--output", url],
        ["search", "q", url],
        ["search", "q", page, "--maps", url],
        ["search", "--queries", url, page],
        ["search", "--query-image", page, url],
        ["search", "q", "--vectors", url],
        ["rerank", "q", url],
        ["rerank", "--query-image", url, page],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert repr(url) in capsys.readouterr().err


def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "queries.txt"
    file.write_bytes("\ufeffrevenue\r\n\n  \nprofit – été".encode())
    assert lines_of(file) == ["revenue", "profit – été"]
    pipe(monkeypatch, b"one\ntwo\n")
    assert lines_of(STDIN) == ["one", "two"]
    file.write_bytes("été".encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"queries\.txt is not text in UTF-8 .* at byte 0"):
        lines_of(file)
    with pytest.raises(InvalidInput, match=r"none cannot be read \(No such file"):
        lines_of(tmp_path / "none")
    file.write_bytes(b" \n")
    with pytest.raises(InvalidInput, match="has no line with a text"):
        lines_of(file)


def test_outputs_are_tried_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "v.npz")
    require_folder(tmp_path / "new" / "maps")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["maps", "new"]
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "none" / "v.npz", "No such file or directory"),
        (tmp_path / "file" / "v.npz", "Not a directory"),
        (tmp_path, "it is a folder"),
        (Path("/proc/v.npz"), ""),
    ):
        with pytest.raises(InvalidInput, match=rf"{path} cannot be written \({reason}"):
            require_writable(path)
    with pytest.raises(InvalidInput, match="cannot be made"):
        require_folder(tmp_path / "file" / "maps")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InvalidInput, match=rf"{name} cannot be written \(it is a device or a pipe"):
            require_writable(tmp_path / name)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(name))
    assert [os.fsencode(path) for path in find_files("embed", [tmp_path])] == [name]
