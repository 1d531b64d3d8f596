"""Checkpoints of a hub, played by an HTTP server on this machine, and what is said when it does not help."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from periscope_export.checkpoint.hub import locate
from periscope_export.errors import ExportError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing listens

FILES = {
    "config.json": b"{}",
    "1_Pooling/config.json": b'{"pooling": "mean"}',
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": b"weights",
    "consolidated.safetensors": b"the same weights again",
    "pytorch_model.bin": b"and again",
    "onnx/model.onnx": b"and again",
    "README.md": b"text",
}


class Hub(ThreadingHTTPServer):
    """The three routes of the hub that a download takes, for one repository."""

    files: dict[str, bytes]
    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Routes(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        files = self.server.files
        if path.startswith(f"/org/name/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
            if body:
                self.server.asked.append(name)
            digest = hashlib.sha256(files[name]).hexdigest()
            self.send(files[name] if body else b"", len(files[name]), {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/org/name/tree/"):
            self.send_json([{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()])
        elif path in ("/api/models/org/name", *(f"/api/models/org/name/revision/{r}" for r in ("main", "v1", COMMIT))):
            self.send_json({"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        else:
            code = "RevisionNotFound" if path.startswith("/api/models/org/name/") else "RepoNotFound"
            self.send(b"", 0, {"X-Error-Code": code}, status=404)

    def send_json(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send(data, len(data), {"Content-Type": "application/json"})

    def send(self, data: bytes, length: int, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), Routes) as server:
        server.files, server.asked = dict(FILES), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def locate_apart(endpoint: str, cache: Path, location: str, **environment: str) -> str:
    """Locate in a process of its own: the hub's library reads its address once, when it is imported."""
    program = (
        "import sys\nfrom periscope_export.errors import ExportError\n"
        "from periscope_export.checkpoint.hub import locate\n"
        "try:\n    print(*locate(sys.argv[1]), sep='\\n')\nexcept ExportError as error:\n    print(error)"
    )
    hub = {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", program, location],
        env={**os.environ, **hub, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stdout.strip()


def test_download_takes_what_an_export_reads_and_is_found_again_offline(hub: Hub, tmp_path: Path) -> None:
    folder, label = locate_apart(hub.url, tmp_path, "org/name").splitlines()
    needed = ["1_Pooling/config.json", "chat_template.jinja", "config.json", "merges.txt", "model.safetensors"]
    assert sorted(hub.asked) == needed
    assert sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file()) == needed
    assert label == "org/name@0123456789ab"
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert locate_apart(CLOSED, tmp_path, "org/name", **environment).splitlines() == [folder, label]
    assert "could not be fetched" in locate_apart(CLOSED, tmp_path, "org/name@v1")


def test_bin_is_taken_where_there_is_nothing_else(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    locate_apart(hub.url, tmp_path, "org/name@v1")
    assert "pytorch_model.bin" in hub.asked
    assert not [name for name in hub.asked if name.endswith((".onnx", ".safetensors"))]


@pytest.mark.parametrize(
    ("location", "reason"), [("org/none", "RepositoryNotFound"), ("org/name@v9", "RevisionNotFound")]
)
def test_hub_refuses(hub: Hub, tmp_path: Path, location: str, reason: str) -> None:
    message = locate_apart(hub.url, tmp_path, location)
    assert reason in message
    assert "hf auth login" in message


def test_hub_out_of_reach_stops_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    message = locate_apart(CLOSED, tmp_path, "org/name")
    assert time.monotonic() - start < 10
    assert "there is no directory org/name" in message
    assert "(hf download org/name --local-dir DIR) and give that directory" in message


def test_directory_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == (tmp_path / "org" / "name", "name")


@pytest.mark.parametrize(
    ("location", "revision", "reason"),
    [
        ("no/such/folder", None, "there is no directory no/such/folder, and it is not a hub id"),
        ("/gone", None, "there is no directory /gone"),
        (Path("org/name"), None, "there is no directory org/name, and it is not a hub id"),
        ("file.bin", None, "file.bin is a file. Give the directory"),
        (".", "v1", "is a directory, which has no revision 'v1'"),
        ("org/name@v1", "v2", "names revision 'v1' and 'v2' is given too"),
    ],
)
def test_no_such_location(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str | Path, revision: str | None, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.bin").touch()
    with pytest.raises(ExportError) as stopped:
        locate(location, revision)
    assert reason in str(stopped.value)
