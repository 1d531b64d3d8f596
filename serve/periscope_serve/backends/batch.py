"""Joining the requests of one `execute` into one run, and keeping one request's failure its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Run = Callable[[list[str], dict[str, Array]], list[Array]]
"""`run(output names, inputs) -> outputs`, an onnxruntime session's `run`."""

MESSAGE_LIMIT = 400


class RequestError(Exception):
    """The failure of one request, in words that are safe to send to its client."""


class Request(NamedTuple):
    """One request: its tensors, and the outputs it asks for."""

    inputs: dict[str, Array]
    outputs: tuple[str, ...]


Answer = dict[str, Array] | RequestError


def answer(requests: Sequence[Request], run: Run, batched: bool) -> list[Answer]:
    """Answer every request; those that can share a run do.

    When a joined run fails nothing tells whose fault it was, so each of its requests is run again alone and only the
    guilty one fails.
    """
    if batched and len(requests) > 1:
        try:
            return list(_joined(requests, run))
        except Exception:
            pass
    return [_alone(request, run) for request in requests]


def _joined(requests: Sequence[Request], run: Run) -> list[dict[str, Array]]:
    names = list(dict.fromkeys(name for request in requests for name in request.outputs))
    inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in requests[0].inputs}
    sizes = [len(next(iter(request.inputs.values()))) for request in requests]
    ends = np.cumsum(sizes)
    outputs = dict(zip(names, run(names, inputs), strict=True))
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != ends[-1]:
            raise RequestError(
                f"failed to split the output tensor '{name}': expected batch size {ends[-1]}, got shape {array.shape}"
            )
    return [
        {name: outputs[name][end - size : end] for name in request.outputs}
        for request, size, end in zip(requests, sizes, ends, strict=True)
    ]


def _alone(request: Request, run: Run) -> Answer:
    try:
        return dict(zip(request.outputs, run(list(request.outputs), request.inputs), strict=True))
    except Exception as error:
        return RequestError(client_message(error))


def client_message(error: Exception) -> str:
    """The cause of a failure, without the source files, signatures and line breaks of onnxruntime's own build."""
    text = " ".join(str(error).split())
    found = re.match(r"\[ONNXRuntimeError\] : (\d+) : \w+ : (.*)", text)
    if found:
        text = f"onnx runtime error {found[1]}: {found[2]}"
    # "<file>:<line> <C++ signature> <failed condition>" is where onnxruntime stopped, not why.
    text = re.sub(r"\S*/\S+:\d+ (?:[^()]*\([^()]*\)(?: const)? )?", "", text)
    text = re.sub(r"(?<![\w.])/\S+", "", text).strip() or type(error).__name__
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"
