"""The frozen surface that others rely on: exported names, tensor names, flags, and packages that are never imported."""

from __future__ import annotations

import argparse
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import periscope_client
from periscope_client import AsyncRetriever, Limits, Reranking, Retriever, RetrieverInfo, Transport, _contract, console
from periscope_client.commands import embed, rerank, search

SERVER_FLAGS = {
    "--url",
    "--model",
    "--protocol",
    "--timeout",
    "--wait",
    "--token-file",
    "--header",
    "--ca",
    "--cert",
    "--key",
}
FLAGS = SERVER_FLAGS | {"--dpi", "--pdf-password-file"}


def test_exported_members() -> None:
    public = {
        name
        for name, member in vars(periscope_client).items()
        if not name.startswith("_") and not inspect.ismodule(member)
    }
    assert periscope_client.__all__ == sorted(public)


def test_contract() -> None:
    constants = {name: value for name, value in vars(_contract).items() if isinstance(value, str) and name.isupper()}
    assert constants == {
        "EMBED_TEXT": "{retriever}_embed_text",
        "EMBED_IMAGE": "{retriever}_embed_image",
        "EMBED_VIDEO": "{retriever}_embed_video",
        "MAXSIM": "{retriever}_maxsim",
        "RERANK": "{retriever}_rerank",
        "TEXT": "TEXT",
        "IMAGE": "IMAGE",
        "VIDEO": "VIDEO",
        "ROLE": "ROLE",
        "INSTRUCTION": "INSTRUCTION",
        "TASK": "TASK",
        "DIMENSIONS": "DIMENSIONS",
        "LATE": "late",
        "LATE_MASK": "late_mask",
        "DENSE": "dense",
        "TOKEN_SPANS": "token_spans",
        "VISUAL_GRID": "visual_grid",
        "QUERY_LATE": "query_late",
        "QUERY_MASK": "query_mask",
        "DOCUMENT_LATE": "document_late",
        "DOCUMENT_MASK": "document_mask",
        "SCORE": "score",
        "QUERY_TEXT": "QUERY_TEXT",
        "QUERY_IMAGE": "QUERY_IMAGE",
        "QUERY_VIDEO": "QUERY_VIDEO",
        "VIDEO_FRAMES": "VIDEO_FRAMES",
        "STATUS": "status",
        "FINGERPRINT": "fingerprint",
        "RECIPE": "recipe",
        "DENSE_WIDTH": "dense_width",
        "DENSE_SMALLEST": "dense_smallest",
        "MAX_CANDIDATES": "max_candidates",
        "IMAGE_BYTES": "image_bytes",
        "IMAGE_PIXELS": "image_pixels",
        "TEXT_BYTES": "text_bytes",
    }


def test_tensors_of_each_output() -> None:
    assert _contract.TENSORS == {"late": ("late", "late_mask"), "dense": ("dense",)}


def test_what_is_known_of_a_retriever() -> None:
    assert [field.name for field in dataclasses.fields(RetrieverInfo)] == [
        "model",
        "fingerprint",
        "recipe",
        "late_width",
        "dense_width",
        "accepts",
        "fused",
        "instructions",
        "tasks",
        "dimensions",
        "queries",
        "candidates",
        "max_candidates",
        "limits",
        "several_images",
    ]
    assert [field.name for field in dataclasses.fields(Limits)] == ["image_bytes", "image_pixels", "text_bytes"]
    assert [field.name for field in dataclasses.fields(Reranking)] == [
        "scores",
        "order",
        "names",
        "fingerprint",
        "recipe",
        "errors",
    ]


def test_arguments() -> None:
    options = ["role", "instruction", "task", "dimensions", "outputs", "on_error", "progress", "request_id"]
    frozen = {
        "embed_text": ["texts", *options],
        "embed_image": ["images", "text", *options],
        "embed_video": ["videos", "text", *options],
        "maxsim": ["queries", "documents", "progress", "request_id"],
        "rerank": ["query", "documents", "instruction", "task", "top_n", "progress", "request_id"],
        "similarity_maps": ["query", "page", "request_id"],
    }
    for name, arguments in frozen.items():
        assert list(inspect.signature(getattr(Retriever, name)).parameters) == ["self", *arguments]


def test_a_transport() -> None:
    """Those that users write have these methods."""
    frozen = {
        "infer": ["self", "model", "inputs", "outputs", "request_id"],
        "config": ["self", "model"],
        "models": ["self"],
        "close": ["self"],
    }
    methods = {name: member for name, member in vars(Transport).items() if inspect.iscoroutinefunction(member)}
    assert {name: list(inspect.signature(method).parameters) for name, method in methods.items()} == frozen


def test_twins_have_the_same_methods_in_the_same_order() -> None:
    def methods(kind: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(member).parameters.values())
            for name, member in vars(kind).items()
            if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
        }

    assert list(methods(Retriever).items()) == list(methods(AsyncRetriever).items())


@pytest.mark.parametrize(
    ("command", "flags", "positional"),
    [
        (
            embed,
            FLAGS | {"--text", "--output", "--resume", "--role", "--instruction", "--task", "--dimensions"},
            ["files"],
        ),
        (
            search,
            FLAGS
            | {
                "--queries",
                "--query-image",
                "--vectors",
                "--top-k",
                "--rank-by",
                "--json",
                "--maps",
                "--instruction",
                "--task",
            },
            ["query", "files"],
        ),
        (
            rerank,
            FLAGS | {"--query-image", "--text", "--top-k", "--json", "--instruction", "--task"},
            ["query", "files"],
        ),
    ],
)
def test_flags(command: ModuleType, flags: set[str], positional: list[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    assert {flag for action in parser._actions for flag in action.option_strings} == flags
    assert [action.dest for action in parser._actions if not action.option_strings] == positional


def test_light_imports() -> None:
    program = (
        "import sys, periscope_client.console, periscope_client.commands.embed, periscope_client.commands.search\n"
        "import periscope_client.commands.rerank\n"
        "import periscope_client._transport_grpc, periscope_client._transport_http\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'periscope_runtime', 'periscope_export', "
        "'periscope_serve', 'pytriton', 'yaml', 'pydantic'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_commands_whose_extra_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The light client lists every command, and says how to get those it cannot run."""

    def missing(package: str) -> None:
        def load(name: str) -> ModuleType:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)

        monkeypatch.setattr(importlib, "import_module", load)

    missing("torch")
    assert console.main(["export"]) == 1
    assert "pip install '.[export]'" in capsys.readouterr().err
    for argument, package in (("export", "periscope_export.oops"), ("embed", "tqdm")):
        missing(package)
        with pytest.raises(ModuleNotFoundError):
            console.main([argument])


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.walk_packages(periscope_client.__path__, "periscope_client.")]
)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
