"""Behaviour that all commands of the client share: errors in one line, wrong usage, interruption."""

from __future__ import annotations

import argparse
import re
import warnings

import pytest
from PIL import Image

from periscope_client import Retriever
from periscope_client.commands import _server
from periscope_client.commands._reports import plain_errors
from periscope_client.console import main
from periscope_serve.server import Server


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["search", "q", "a.png", "--url", "127.0.0.1:9", "--timeout", "1"],
            "no server answers at 127.0.0.1:9 over grpc",
        ),
        (["search", "q", "a.png", "--model", "gme", "SERVER"], "has no retriever 'gme'. It has 'bare'"),
        (["search", "fault", "a.png", "SERVER", "--model", "toy"], "the graph fell over"),
        (
            ["rerank", "q", "a.png", "SERVER", "--model", "toy"],
            "'toy' does not rerank, it only embeds texts and images",
        ),
        (["rerank", "refuse: no", "--text", "a", "SERVER", "--model", "rich"], "preprocess: query: no"),
        # Before any server is asked.
        (["embed", "a.pdf", "--output", "v.npz", "--pdf-password-file", "no"], "no cannot be read (No such file"),
        (["embed", "a.pdf", "--output", "v.npz", "--token-file", "no"], "no cannot be read (No such file"),
        (["embed", "--text", "a", "--output", "no/such/folder/v.npz", "--url", "127.0.0.1:9"], "No such file"),
    ],
)
def test_one_line_and_no_traceback(
    arguments: list[str],
    message: str,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("periscope_client._timeout.FIRST_DELAY", 0.01)
    place = arguments.index("SERVER") if "SERVER" in arguments else len(arguments)
    arguments[place : place + 1] = ["--url", server.grpc_url] if place < len(arguments) else []
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(rf"periscope {arguments[0]}: .*\n", err), err
    assert message in err


def test_what_pillow_says_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @plain_errors("embed")
    def run(args: argparse.Namespace) -> int:
        warnings.warn("Corrupt EXIF data.  Expecting 2 bytes. ", stacklevel=1)
        warnings.warn("large", Image.DecompressionBombWarning, stacklevel=1)
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        run(argparse.Namespace())
    said = "periscope embed: Corrupt EXIF data. Expecting 2 bytes.\nperiscope embed: large\n"
    assert capsys.readouterr().err == said


def test_interrupted(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(self: Retriever, *args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Retriever, "embed_text", interrupt)
    assert main(["search", "q", "a.png", "--url", server.grpc_url, "--model", "toy"]) == 130
    assert capsys.readouterr().err == "periscope search: interrupted\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "--output", "v.npz"],
        ["embed", "a.png"],
        ["embed", "a.png", "--text", "b", "--output", "v.npz"],
        ["search", "only a query"],
        ["search", "q", "a.png", "--url", "ftp://localhost:8000"],
        ["search", "q", "a.png", "--header", "no colon"],
        ["search", "q", "a.png", "--header", "a:1", "--header", "A:2"],
        ["search", "q", "a.png", "--url", "localhost"],
        ["search", "q", "a.png", "--protocol", "smoke"],
        ["search", "q", "a.png", "--top-k", "0"],
        ["search", "q", "a.png", "--rank-by", "colour"],
        ["search", "q", "a.png", "--dpi", "-3"],
        ["search", "q", "a.png", "--timeout", "soon"],
        ["embed", "a.png", "--output", "v.npz", "--dimensions", "0"],
        ["search", "q", "a.png", "--maps", "d", "--task", "a"],
        ["rerank"],
        ["rerank", "only a query"],
        ["rerank", "--text", "only a text"],
        ["rerank", "--query-image", "only.png"],
        ["rerank", "q", "--top-k", "0", "--text", "a"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert f"usage: periscope {arguments[0]}" in capsys.readouterr().err


def test_default_addresses() -> None:
    assert _server.DEFAULT_URLS == {"grpc": "localhost:8001", "http": "localhost:8000"}
