"""`periscope embed` and `periscope search` as they are typed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from periscope_client import Embeddings, Retriever, pdf_pages
from periscope_client._endpoint import Protocol
from periscope_client._items import ImageItem
from periscope_client.commands import search
from periscope_client.console import main

from .pdfs import locked
from .vectors import same


@pytest.fixture
def options(url: str, protocol: Protocol) -> list[str]:
    return ["--url", url, "--protocol", protocol, "--model", "toy"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    Image.new("RGB", (80, 20), "teal").save(path)
    return path


def test_search(
    options: list[str], retriever: Retriever, pdf: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "revenue by region", str(pdf), str(image), *options]) == 0
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split() == ["rank", "score", "page", "file"]
    assert err == ""

    scores_N = retriever.maxsim(
        retriever.embed_text(["revenue by region"]), retriever.embed_image([*pdf_pages(pdf), image])
    )[0]
    places = [("1", str(pdf)), ("2", str(pdf)), ("3", str(pdf)), ("-", str(image))]
    expected = [
        [str(rank), f"{scores_N[index]:.4f}", *places[index]]
        for rank, index in enumerate(np.argsort(-scores_N), start=1)
    ]
    assert [row.split() for row in rows] == expected
    assert len({row.index("/") for row in rows}) == 1, "the columns are aligned"

    assert main(["search", "revenue by region", str(pdf), str(image), "--top-k", "2", *options]) == 0
    assert [row.split() for row in capsys.readouterr().out.splitlines()[1:]] == expected[:2]


def test_search_among_broken_files(
    options: list[str], pdf: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, fake_pdf, renamed = tmp_path / "broken.png", tmp_path / "fake.pdf", tmp_path / "report without suffix"
    broken.write_text("?")
    fake_pdf.write_text("?")
    renamed.write_bytes(pdf.read_bytes())
    files = [broken, fake_pdf, renamed, tmp_path / "missing.pdf", tmp_path / "missing.png", image]
    assert main(["search", "anything", *map(str, files), *options]) == 1
    out, err = capsys.readouterr()
    assert sorted(line.split(maxsplit=3)[2:] for line in out.splitlines()[1:]) == sorted(
        [["-", str(image)], *([str(number), str(renamed)] for number in (1, 2, 3))]
    )
    lines = err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["periscope search", str(file)] for file in files if file not in (renamed, image)
    ]
    assert "preprocess: cannot be decoded" in lines[0]
    assert "read: the PDF cannot be opened" in lines[1]
    assert "read: the file cannot be read (No such file or directory)" in lines[2]

    assert main(["search", "anything", str(broken), *options]) == 1
    assert "nothing to rank" in capsys.readouterr().err


def test_search_draws_maps(
    options: list[str], retriever: Retriever, pdf: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "maps"
    query = "Revenue: by région?"
    assert main(["search", query, str(pdf), str(image), "--top-k", "3", "--maps", str(folder), *options]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    rows, drawn = [line.split(maxsplit=3) for line in lines[:3]], lines[3:]

    places = {"1": "report-page-1", "2": "report-page-2", "3": "report-page-3", "-": "scan"}
    sheets = [folder / f"revenue-by-région-{rank}-{places[page]}.png" for rank, _, page, _ in rows]
    assert drawn == [f"maps of rank {rank}: {sheet}" for rank, sheet in enumerate(sheets, start=1)]
    assert sorted(folder.iterdir()) == sorted(sheets)
    items: dict[str, ImageItem] = {**{str(page.number): page for page in pdf_pages(pdf)}, "-": image}
    for (_, _, page, _), sheet in zip(rows, sheets, strict=True):
        wanted = retriever.similarity_maps(query, items[page]).picture(items[page])
        with Image.open(sheet) as found:
            assert found.tobytes() == wanted.tobytes()


def test_search_draws_maps_for_late_vectors_only(
    options: list[str], pdf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before any page is embedded, not after."""
    assert main(["search", "a", str(pdf), "--maps", str(tmp_path / "maps"), *options, "--model", "flat"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "periscope search: the retriever 'flat' (recipe 'standin') has no late vectors" in err
    assert not (tmp_path / "maps").exists()

    file = tmp_path / "file"
    file.touch()
    assert main(["search", "a", str(pdf), "--maps", str(file), *options]) == 1
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize("text", ["!?", "…"])
def test_names_without_letters(text: str) -> None:
    assert search._slug(text) == "_"


def test_search_dense_only(options: list[str], pdf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "anything", str(pdf), *options, "--model", "flat"]) == 0
    scores = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3


def test_search_by_either_vector(
    options: list[str], retriever: Retriever, pdf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query, pages = retriever.embed_text(["anything"]), retriever.embed_image(pdf_pages(pdf))
    cosines = (query.dense_vectors() @ pages.dense_vectors().T)[0]
    for arguments, scores in (
        (["--rank-by", "dense"], cosines),
        (["--rank-by", "late"], retriever.maxsim(query, pages)[0]),
        ([], retriever.maxsim(query, pages)[0]),
    ):
        assert main(["search", "anything", str(pdf), *arguments, *options]) == 0
        found = [line.split()[1:3] for line in capsys.readouterr().out.splitlines()[1:]]
        assert found == [[f"{scores[place]:.4f}", str(place + 1)] for place in np.argsort(-scores)]
    assert main(["search", "anything", str(pdf), "--rank-by", "dense", *options, "--model", "slim"]) == 1
    assert "has no dense vectors, only late ones" in capsys.readouterr().err


def test_embed_files(
    options: list[str], retriever: Retriever, pdf: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "vectors.npz"
    assert main(["embed", str(image), str(pdf), "--dpi", "72", "--output", str(output), *options]) == 0
    assert capsys.readouterr().out == (
        f"{output}: 4 items, 64 late vectors of 4, dense vectors of 4; recipe standin, fingerprint weights-a\n"
    )
    expected = retriever.embed_image([image, *pdf_pages(pdf, dpi=72)])
    loaded = Embeddings.load(output)
    assert same(loaded, expected)
    assert loaded.names == expected.names

    broken = tmp_path / "broken.png"
    broken.write_text("?")
    assert main(["embed", str(broken), str(image), "--output", str(output), *options]) == 1
    assert f"periscope embed: {broken}: preprocess: cannot be decoded" in capsys.readouterr().err
    assert Embeddings.load(output).names == [str(image)]

    output.unlink()
    assert main(["embed", str(broken), "--output", str(output), *options]) == 1
    assert "no file written" in capsys.readouterr().err
    assert not output.exists()


def test_embed_texts(options: list[str], retriever: Retriever, tmp_path: Path) -> None:
    output = tmp_path / "vectors.npz"
    for role in ("query", "document"):
        assert main(["embed", "--text", "a b", "c", "--role", role, "--output", str(output), *options]) == 0
        assert same(Embeddings.load(output), retriever.embed_text(["a b", "c"], role=role))
    assert main(["embed", "--text", "a", "--output", str(output), *options, "--model", "slim"]) == 0
    assert main(["embed", "--text", "a", "--output", str(output), *options, "--model", "flat"]) == 0
    assert Embeddings.load(output).late is None


def test_embed_from_standard_input(
    options: list[str],
    retriever: Retriever,
    pdf: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "vectors.npz"
    for data, arguments, expected in (
        ("a b\n\nc\n", ["--text", "first", "-"], retriever.embed_text(["first", "a b", "c"])),
        (f"{image}\n{pdf}\n", ["-"], retriever.embed_image([image, *pdf_pages(pdf)])),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
        assert main(["embed", *arguments, "--output", str(output), *options]) == 0
        assert same(Embeddings.load(output), expected)
        assert Embeddings.load(output).names == expected.names


def test_options_of_embed(
    options: list[str], rich: Retriever, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "vectors.npz"
    arguments = ["--output", str(output), *options, "--model", "rich", "--dimensions", "2"]
    assert main(["embed", "--text", "a", "--instruction", "Find it.", *arguments]) == 0
    assert "dense vectors of 2;" in capsys.readouterr().out
    assert same(Embeddings.load(output), rich.embed_text(["a"], instruction="Find it.", dimensions=2))
    assert main(["embed", str(image), "--task", "compare", *arguments]) == 0
    assert same(Embeddings.load(output), rich.embed_image([image], task="compare", dimensions=2))
    capsys.readouterr()
    assert main(["embed", str(image), "--output", str(output), "--task", "compare", *options]) == 1
    assert capsys.readouterr().err == (
        "periscope embed: the retriever 'toy' (recipe 'standin') takes no task for images. "
        "Leave it out, or serve a checkpoint whose recipe has it.\n"
    )


def test_instruction_and_task_of_search(
    options: list[str], rich: Retriever, pdf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["search", "q", str(pdf), "--rank-by", "dense", *options, "--model", "rich"]
    asked: list[tuple[list[str], dict[str, str], dict[str, str]]] = [
        (["--instruction", "Find it."], {"instruction": "Find it."}, {}),
        # The adapter that computes vectors has to be the same on both sides.
        (["--task", "compare"], {"task": "compare"}, {"task": "compare"}),
    ]
    for given, of_query, of_pages in asked:
        assert main([*arguments, *given]) == 0
        query, pages = rich.embed_text(["q"], **of_query), rich.embed_image(pdf_pages(pdf), **of_pages)  # type: ignore[arg-type]
        cosines = (query.dense_vectors() @ pages.dense_vectors().T)[0]
        scores = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:]]
        np.testing.assert_allclose(scores, sorted(cosines, reverse=True), atol=1e-4)
    assert main([*arguments, "--model", "judge"]) == 1
    assert capsys.readouterr().err == "periscope search: the retriever 'judge' does not embed texts, it only reranks\n"


def test_locked_pdfs(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pdf, password = tmp_path / "locked.pdf", tmp_path / "password"
    pdf.write_bytes(locked("sesame "))
    password.write_text("sesame \n")
    arguments = ["embed", str(pdf), "--output", str(tmp_path / "vectors.npz"), *options]
    assert main(arguments) == 1
    assert f"{pdf}: read: the PDF is locked with a password: give it (password=, for" in capsys.readouterr().err
    assert main([*arguments, "--pdf-password-file", str(password)]) == 0
    monkeypatch.setenv("PERISCOPE_PDF_PASSWORD", "sesame ")
    assert main(arguments) == 0
    monkeypatch.setenv("PERISCOPE_PDF_PASSWORD", "another")
    assert main(arguments) == 1
    assert "locked with another password than the one that was given" in capsys.readouterr().err
    assert main([*arguments, "--pdf-password-file", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
