"""`periscope rerank` as it is typed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from periscope_client import Retriever, pdf_pages
from periscope_client._endpoint import Protocol
from periscope_client.console import main


@pytest.fixture
def options(url: str, protocol: Protocol) -> list[str]:
    return ["--url", url, "--protocol", protocol, "--model", "rich"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    Image.new("RGB", (80, 20), "teal").save(path)
    return path


def test_files_and_texts(
    options: list[str], rich: Retriever, pdf: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rerank", "revenue", str(pdf), str(image), "--text", "a\nb", "--text", "c", *options]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    header, *rows = out.splitlines()
    assert header.split() == ["rank", "score", "page", "file"]
    ranking = rich.rerank("revenue", ["a\nb", "c", *pdf_pages(pdf), image])
    places = [("-", "'a b'"), ("-", "'c'"), ("1", str(pdf)), ("2", str(pdf)), ("3", str(pdf)), ("-", str(image))]
    expected = [
        [str(rank), f"{ranking.scores[place]:.4f}", *places[place]] for rank, place in enumerate(ranking.order, start=1)
    ]
    assert [row.split(maxsplit=3) for row in rows] == expected

    assert (
        main(["rerank", "revenue", "--text", "a\nb", "--text", "c", *options, "--top", "2", str(pdf), str(image)]) == 0
    )
    assert [row.split(maxsplit=3) for row in capsys.readouterr().out.splitlines()[1:]] == expected[:2]

    assert main([*arguments, "--top-k", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recipe"], printed["fingerprint"], printed["failed"]) == ("standin", "weights-a", [])
    documents: list[dict[str, object]] = [{"text": "a\nb"}, {"text": "c"}]
    documents += [{"file": str(pdf), "page": number} for number in (1, 2, 3)]
    documents.append({"file": str(image), "page": None})
    assert printed["ranking"] == [
        {"rank": rank, "score": float(ranking.scores[place]), **documents[place]}
        for rank, place in enumerate(ranking.order[:2], start=1)
    ]


def test_query_image_and_instruction(
    options: list[str], rich: Retriever, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.png"
    Image.new("RGB", (8, 8)).save(page)
    query = ["--query-image", str(image)]
    for arguments, documents, instruction in (
        ([*query, str(page), str(image)], [page, image], None),
        ([str(page), *query], [page], None),
        ([*query, "--text", "a", "--instruction", "Find it."], ["a"], "Find it."),
        ([*query, "--text", "a", "--task", "find"], ["a"], "Find it."),
    ):
        assert main(["rerank", *arguments, *options, "--json"]) == 0
        scores = [entry["score"] for entry in json.loads(capsys.readouterr().out)["ranking"]]
        expected = rich.rerank(image, documents, instruction=instruction)
        assert scores == expected.scores[expected.order].tolist()


def test_standard_input_and_folders(
    options: list[str],
    rich: Retriever,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    for name in ("p10.png", "p9.png"):
        Image.new("RGB", (8, len(name))).save(folder / name)
    pages = [folder / "p9.png", folder / "p10.png"]
    for arguments, data, expected in (
        (["q", str(folder)], b"", rich.rerank("q", pages)),
        (["q", "-"], f"{pages[0]}\n{pages[1]}".encode(), rich.rerank("q", pages)),
        (["q", "--text", "-", "--text", "c"], b"a\nb\n", rich.rerank("q", ["a", "b", "c"])),
        (["--query-image", "-", str(folder)], image.read_bytes(), rich.rerank(image, pages)),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["rerank", *arguments, *options, "--json"]) == 0
        scores = [entry["score"] for entry in json.loads(capsys.readouterr().out)["ranking"]]
        assert scores == expected.scores[expected.order].tolist()


def test_broken_documents(options: list[str], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.pdf"
    broken.write_text("?")
    assert main(["rerank", "q", str(broken), str(missing), str(image), *options]) == 1
    out, err = capsys.readouterr()
    assert [row.split(maxsplit=3)[3] for row in out.splitlines()[1:]] == [str(image)]
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"periscope rerank: {broken}: preprocess: cannot be decoded")
    assert lines[1].startswith(f"periscope rerank: {missing}: read: the file cannot be read")

    assert main(["rerank", "q", str(broken), *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "periscope rerank: no document could be scored, so there is nothing to rank" in err
    assert main(["rerank", "q", str(broken), *options, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["ranking"] == []
    (failed,) = printed["failed"]
    assert (failed["file"], failed["page"]) == (str(broken), None)
    assert failed["error"].startswith("preprocess: cannot be decoded")


def test_a_query_image_that_cannot_be_read(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.png"
    assert main(["rerank", "--query-image", str(missing), "--text", "a", *options]) == 1
    assert capsys.readouterr().err == (
        f"periscope rerank: read: the query ({missing}): the file cannot be read (No such file or directory)\n"
    )
