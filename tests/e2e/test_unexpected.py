"""A defect of the preparation itself: one request fails, without a traceback, and its neighbours have their tensors."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from e2e.exported import Exported
from e2e.pages import column, infer
from periscope_serve.server import Server

DEFECT = """

_sound = Preparer.item


def _unsound(self, item, asked):
    if item.text == b"boom":
        raise RuntimeError("/secret/path holds no tokens")
    return _sound(self, item, asked)


Preparer.item = _unsound
"""


def test_a_defect_fails_one_request_only(first: Exported, tmp_path: Path) -> None:
    model = f"{first.name}_preprocess_text"
    shutil.copytree(first.repository / model, tmp_path / "repository" / model)
    file = tmp_path / "repository" / model / "1" / "model.py"
    file.write_text(file.read_text() + DEFECT)
    log = tmp_path / "triton.log"
    with (
        Server([tmp_path / "repository"], grpc_port=0, http_port=0, metrics_port=0, log=log) as server,
        InferenceServerClient(server.grpc_url) as triton,
        ThreadPoolExecutor(8) as threads,
    ):
        texts = [b"boom" if place % 4 == 1 else b"sound" for place in range(16)]
        answers = [threads.submit(infer, triton, model, {"TEXT": column([text])}) for text in texts]
        for text, answer in zip(texts, answers, strict=True):
            if text == b"sound":
                assert answer.result()["input_ids"].shape[0] == 1
                continue
            with pytest.raises(InferenceServerException, match=r"failed unexpectedly \(RuntimeError\)") as raised:
                answer.result()
            assert raised.value.status() == "StatusCode.INTERNAL"
            assert "secret" not in str(raised.value)
            assert "Traceback" not in str(raised.value)
    assert "/secret/path holds no tokens" in log.read_text()
