"""`periscope search` for several queries, an image, stored vectors, and as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from periscope_client import Embeddings, Retriever, pdf_pages
from periscope_client._embeddings import Floats
from periscope_client._endpoint import Protocol
from periscope_client.console import main


@pytest.fixture
def options(url: str, protocol: Protocol) -> list[str]:
    return ["--url", url, "--protocol", protocol, "--model", "toy"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    Image.new("RGB", (80, 20), "teal").save(path)
    return path


def ranking(scores_N: Floats, documents: list[dict[str, object]]) -> list[dict[str, object]]:
    return [
        {"rank": rank, "score": float(scores_N[place]), **documents[place]}
        for rank, place in enumerate(np.argsort(-scores_N, kind="stable").tolist(), start=1)
    ]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> Any:
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_json(
    options: list[str], retriever: Retriever, pdf: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = image.with_name("broken.png")
    broken.write_text("?")
    found = printed(["search", "revenue", str(pdf), str(broken), str(image), *options], capsys, status=1)
    scores_N = retriever.maxsim(retriever.embed_text(["revenue"]), retriever.embed_image([*pdf_pages(pdf), image]))[0]
    documents: list[dict[str, object]] = [{"file": str(pdf), "page": number} for number in (1, 2, 3)]
    documents.append({"file": str(image), "page": None})
    (failed,) = found.pop("failed")
    assert (failed["file"], failed["page"]) == (str(broken), None)
    assert failed["error"].startswith("preprocess: cannot be decoded")
    assert found == {"recipe": "standin", "fingerprint": "weights-a", "ranking": ranking(scores_N, documents)}

    nothing = printed(["search", "revenue", str(broken), *options], capsys, status=1)
    assert (nothing["ranking"], len(nothing["failed"])) == ([], 1)


def test_several_queries(
    options: list[str],
    retriever: Retriever,
    pdf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("revenue by region\n\nprofit\n")
    assert main(["search", "--queries", str(queries), str(pdf), "--top-k", "2", *options]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [table[0], table[4:6]] == ["revenue by region", ["", "profit"]]
    scores_QN = retriever.maxsim(
        retriever.embed_text(["revenue by region", "profit"]), retriever.embed_image(pdf_pages(pdf))
    )
    best = [f"{scores[place]:.4f}" for scores in scores_QN for place in np.argsort(-scores)[:2]]
    assert [row.split()[1] for row in (*table[2:4], *table[7:9])] == best

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"revenue by region\nrefuse: no\nprofit")))
    found = printed(["search", str(pdf), "--queries", "-", *options], capsys, status=1)
    documents: list[dict[str, object]] = [{"file": str(pdf), "page": number} for number in (1, 2, 3)]
    assert found["rankings"] == [
        {"query": query, "ranking": ranking(scores_N, documents)}
        for query, scores_N in zip(("revenue by region", "profit"), scores_QN, strict=True)
    ]
    assert [failed["query"] for failed in found["failed"]] == ["refuse: no"]

    maps = tmp_path / "maps"
    assert main(["search", "--queries", str(queries), str(pdf), "--top-k", "1", "--maps", str(maps), *options]) == 0
    names = sorted(path.name for path in maps.iterdir())
    assert [name.partition("-1-report-page-")[0] for name in names] == ["1-revenue-by-region", "2-profit"]


def test_an_image_to_look_for(
    options: list[str],
    rich: Retriever,
    pdf: Path,
    image: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = rich.embed_image([image], role="query", outputs=["dense"])
    cosines = (query.dense_vectors() @ rich.embed_image(pdf_pages(pdf)).dense_vectors().T)[0]
    expected = ranking(cosines, [{"file": str(pdf), "page": number} for number in (1, 2, 3)])
    arguments = [*options, "--model", "rich", "--rank-by", "dense"]
    assert printed(["search", "--query-image", str(image), str(pdf), *arguments], capsys)["ranking"] == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(image.read_bytes())))
    assert printed(["search", str(pdf), "--query-image", "-", *arguments], capsys)["ranking"] == expected
    missing = str(image.with_name("missing.png"))
    assert main(["search", "--query-image", missing, str(pdf), *options]) == 1
    assert "periscope search: read: the file cannot be read" in capsys.readouterr().err


def test_stored_vectors(
    options: list[str], retriever: Retriever, pdf: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same ranking as from the files, which may be gone, alone or beside other files."""
    pages, scans, both = tmp_path / "pages.npz", tmp_path / "scans.npz", [str(pdf), str(image)]
    for file, output in zip(both, (pages, scans), strict=True):
        assert main(["embed", file, "--output", str(output), *options]) == 0
    capsys.readouterr()
    expected = printed(["search", "revenue", *both, *options], capsys)
    beside = printed(["search", "revenue", *both[1:], "--vectors", str(pages), *options], capsys)
    image.unlink()
    pdf.unlink()
    assert beside == expected
    assert printed(["search", "revenue", "--vectors", str(pages), str(scans), *options], capsys) == expected
    assert main(["search", "revenue", *options, "--vectors", str(pages), "--vectors", str(scans)]) == 0
    rows = [row.split()[2:] for row in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["-" if one["page"] is None else str(one["page"]), one["file"]] for one in expected["ranking"]]

    texts = tmp_path / "texts.npz"
    assert main(["embed", "--text", "two\nlines", "--role", "document", "--output", str(texts), *options]) == 0
    capsys.readouterr()
    assert main(["search", "revenue", "--vectors", str(texts), "--rank-by", "dense", *options]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("-  'two lines'")
    (found,) = printed(["search", "revenue", "--vectors", str(texts), *options], capsys)["ranking"]
    assert found.keys() == {"rank", "score", "text"}
    assert found["text"] == "two\nlines"


def test_stored_vectors_in_other_widths(
    options: list[str], rich: Retriever, pdf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*options, "--model", "rich"]
    narrow, wide, late = tmp_path / "narrow.npz", tmp_path / "wide.npz", tmp_path / "late.npz"
    rich.embed_image(pdf_pages(pdf), dimensions=2, outputs=["dense"]).save(narrow)
    rich.embed_image(pdf_pages(pdf), dimensions=3, outputs=["dense"]).save(wide)
    rich.embed_image(pdf_pages(pdf), outputs=["late"]).save(late)
    found = printed(["search", "q", "--vectors", str(narrow), *arguments], capsys)["ranking"]
    query = rich.embed_text(["q"], dimensions=2, outputs=["dense"])
    scores = (query.dense_vectors() @ Embeddings.load(narrow).dense_vectors().T)[0]
    np.testing.assert_allclose([one["score"] for one in found], sorted(scores, reverse=True))
    for files, message in (
        ([narrow, wide], f"dense vectors differ in their dimensions: {narrow} of 2, {wide} of 3"),
        (
            [narrow, late],
            f"{narrow} has no late vectors",
        ),
    ):
        assert main(["search", "q", "--vectors", *map(str, files), *arguments]) == 1
        err = capsys.readouterr().err
        assert err.startswith("periscope search: ")
        assert message in err


def test_stored_vectors_that_do_not_fit(
    options: list[str], pdf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is embedded."""
    other, text = tmp_path / "other.npz", tmp_path / "text.npz"
    Embeddings([np.ones((1, 4), np.float32)], None, "weights-b", "standin", ["a.png"]).save(other)
    text.write_text("?")
    for path, message in (
        (other, f"{other} holds vectors of 'standin' (fingerprint weights-b), the retriever 'toy' gives"),
        (text, f"{text} is not a file of vectors"),
        (tmp_path / "none.npz", "none.npz cannot be read (No such file or directory)"),
    ):
        assert main(["search", "q", str(pdf), "--vectors", str(path), *options]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("periscope search: ")
        assert message in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--vectors", "a.npz", "q"],
        ["--queries", "-", "-"],
        ["--query-image", "-", "-"],
        ["--queries", "a.txt", "--query-image", "a.png", "b.png"],
        ["--queries", "a.txt"],
        ["q", "--vectors", "a.npz", "--maps", "maps"],
        ["--query-image", "a.png", "b.png", "--maps", "maps"],
    ],
)
def test_arguments_that_do_not_go_together(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["search", *arguments])
    assert caught.value.code == 2
    assert "usage: periscope search" in capsys.readouterr().err


def test_a_name_that_is_not_utf8(
    options: list[str], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through vectors and JSON; how it is printed as text is in test_console.py."""
    folder, output = tmp_path / "pages", tmp_path / "v.npz"
    folder.mkdir()
    name = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    image.rename(name)
    assert main(["embed", str(folder), "--output", str(output), *options]) == 0
    assert Embeddings.load(output).names == [name]
    capsys.readouterr()
    for documents in ([str(folder)], ["--vectors", str(output)]):
        assert main(["search", "q", *documents, "--json", *options]) == 0
        out = capsys.readouterr().out
        assert json.loads(out.encode("utf-8"))["ranking"][0]["file"] == name
