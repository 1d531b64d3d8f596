"""The reason found in a log of Triton's."""

from __future__ import annotations

from periscope_serve.reason import TAIL, failure, tail

TABLE = ["+-------+---------+", "| Model | Version |", "+-------+---------+", ""]
INFO = 'I1122 10:00:00.000001 77 model_lifecycle.cc:472] "loading: a:1"'


def error(message: str, source: str = "model_lifecycle.cc:642") -> str:
    return f'E1122 10:00:00.000001 77 {source}] "{message}"'


def test_a_model_that_failed_to_load() -> None:
    traceback = "\\n\\nAt:\\n  /srv/backends/onnxruntime/model.py(68): initialize\\n"
    lines = [
        INFO,
        error("CudaDriverHelper has not been initialized.", "server.cc:241"),
        error(f"ERROR: Failed to create instance: TritonModelException: no such output{traceback}"),
        error(f"failed to load 'a' version 1: Internal: TritonModelException: no such output{traceback}"),
        *TABLE,
        "error: creating server: Internal - failed to load all models",
    ]
    assert failure(lines).splitlines()[1:] == ["  model 'a': no such output"]


def test_every_failure_once() -> None:
    lines = [
        error("failed to load 'a' version 1: Internal: ValueError: first\\nsecond"),
        error("failed to load 'a' version 1: Internal: ValueError: first\\nsecond"),
        error("Poll failed for model directory 'b': no \\\"backend\\\"", "model_repository_manager.cc:1460"),
        error("failed to load model 'c': at least one version must be available", "model_repository_manager.cc:724"),
        error("Invalid argument: in ensemble e, shapes differ", "model_repository_manager.cc:703"),
        "[libprotobuf ERROR /build/text_format.cc:337] Error parsing text-format: 5:9: no field",
    ]
    assert failure(lines).splitlines()[1:] == [
        "  model 'a': ValueError: first second",
        "  model 'b': no \"backend\"",
        "  model 'c': at least one version must be available",
        "  Invalid argument: in ensemble e, shapes differ",
        "  Error parsing text-format: 5:9: no field",
    ]


def test_without_a_reason_the_last_lines_are_shown() -> None:
    text = failure([*TABLE, "terminate called after throwing an instance of 'std::bad_alloc'", *TABLE])
    assert "the last lines of its log were:\nterminate called" in text
    assert "|" not in text


def test_the_tail_is_short() -> None:
    assert tail([f"line {number}" for number in range(100)]).splitlines() == [
        f"line {number}" for number in range(100 - TAIL, 100)
    ]
