"""Preparation inside Triton: the items of a batch in threads, one answer a request.

The same file prepares texts, images, videos and pairs: the parameter `path` of its config says which. `recipe.json` and
`tokenizer.json` lie beside it. Needs the package `periscope_runtime` in the interpreter of Triton's Python backend.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

from periscope_runtime.asked import Asked
from periscope_runtime.bfloat16 import bfloat16_capsule
from periscope_runtime.collate import Tensors, collate
from periscope_runtime.completion import Wanted, completed
from periscope_runtime.cpus import usable_cpus
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.paths import PATHS
from periscope_runtime.prepare import Preparer, Row, Side
from periscope_runtime.requests import Inputs, dimensions, items, pairs

Prepared = TypeVar("Prepared")

_BFLOAT16 = "TYPE_BF16"


class Pending(NamedTuple):
    """A request whose items are being prepared: each is a row, or the message that says why not.

    Rows of candidates come with the future of their query, which is the first to be read.
    """

    inputs: Inputs
    rows: list[Future[Row | str]]
    query: Future[Side | str] | None = None


class TritonPythonModel:
    """A request of B items: one that cannot be prepared fails its own request and no other.

    A request of pairs holds a query and N candidates: one that cannot be prepared has its own status.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read the recipe and the tokenizer."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        os.nice(int(parameters.get("nice", 0)))  # taken over by the threads below
        self._path = PATHS[parameters["path"]]
        self._width, self._smallest = int(parameters.get("dense_width", 0)), int(parameters.get("dense_smallest", 0))
        self._most = int(parameters.get("max_candidates", 0))
        self._preparer = Preparer(Path(args["model_repository"]) / args["model_version"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = {output["name"]: output for output in config["output"]}
        self._wanted = {name: _wanted(output) for name, output in self._outputs.items()}
        if ("prefix_index" in self._outputs) != (self._preparer.kept is not None):
            raise ValueError(
                "preprocess: prefixes.json and the output prefix_index need each other. Export the checkpoint again."
            )
        self._threads = ThreadPoolExecutor(max_workers=usable_cpus(), thread_name_prefix="prepare")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Prepare all items of all requests side by side; pillow and tokenizers release the interpreter."""
        begin = self._pairs if self._path.pairs else self._items
        # An error raised here would fail every request of the batch, with a traceback for its callers to read.
        begun = [_guarded(begin, request) for request in requests]
        return [_guarded(self._answer, one) if isinstance(one, Pending) else one for one in begun]

    def finalize(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    def _read(self, request: Any) -> Inputs:
        found = ((name, pb_utils.get_input_tensor_by_name(request, name)) for name in self._inputs)
        return {name: tensor.as_numpy() for name, tensor in found if tensor is not None}

    def _items(self, request: Any) -> Pending:
        inputs = self._read(request)

        def row(index: int, item: Item, asked: Asked) -> Row | str:
            return _told(f"{self._path.name} {index}", lambda: self._preparer.item(item, asked))

        return Pending(inputs, [self._threads.submit(row, index, *one) for index, one in enumerate(items(inputs))])

    def _pairs(self, request: Any) -> Pending:
        inputs = self._read(request)
        query_item, documents, asked = pairs(inputs, self._most)
        self._preparer.check(asked)
        query: Future[Side | str] = self._threads.submit(_told, "query", lambda: self._preparer.side(query_item))

        def row(index: int, document: Item) -> Row | str:
            # Submitted before, so it is read by now or being read: this never waits for a thread.
            side = query.result()
            if isinstance(side, str):
                return side
            read = side
            return _told(f"candidate {index}", lambda: self._preparer.pair(read, self._preparer.side(document), asked))

        return Pending(inputs, [self._threads.submit(row, *one) for one in enumerate(documents)], query)

    def _answer(self, pending: Pending) -> Any:
        rows = [row.result() for row in pending.rows]
        messages = [row for row in rows if isinstance(row, str)]
        if pending.query is None and messages:
            return _error(" ".join(messages), pb_utils.TritonError.INVALID_ARG)
        if pending.query is not None and isinstance(broken := pending.query.result(), str):
            return _error(broken, pb_utils.TritonError.INVALID_ARG)
        prepared = [self._preparer.nothing() if isinstance(row, str) else row for row in rows]
        tensors = collate(prepared, self._preparer.preparation.buckets, self._preparer.kept)
        columns = dimensions(pending.inputs, self._smallest, self._width) if "dense_columns" in self._wanted else 0
        tensors = completed(tensors, self._wanted, columns)
        if pending.query is not None:
            tensors["status"] = np.array([row if isinstance(row, str) else "" for row in rows], dtype=np.object_)
        return pb_utils.InferenceResponse([self._output(name, tensors) for name in self._outputs])

    def _output(self, name: str, tensors: Tensors) -> Any:
        if self._outputs[name]["data_type"] == _BFLOAT16:
            return pb_utils.Tensor.from_dlpack(name, bfloat16_capsule(tensors[name]))
        return pb_utils.Tensor(name, tensors[name])


def _told(item: str, prepare: Callable[[], Prepared]) -> Prepared | str:
    """Return what was prepared, or the message that says why not."""
    try:
        return prepare()
    except PreparationError as error:
        return error.at("preprocess", item)


def _guarded(work: Callable[[Any], Any], argument: Any) -> Any:
    """Return what the work returns, or the answer that says why it failed: no traceback."""
    try:
        return work(argument)
    except PreparationError as error:
        return _error(error.at("preprocess", "request"), pb_utils.TritonError.INVALID_ARG)
    except Exception as error:
        pb_utils.Logger.log_error(f"preprocess: {type(error).__name__}: {error}")
        message = f"preprocess: failed unexpectedly ({type(error).__name__}). See the server's log."
        return _error(message, pb_utils.TritonError.INTERNAL)


def _wanted(output: dict[str, Any]) -> Wanted:
    """Return what a graph takes, of the output that gives it; of bfloat16, which numpy has not, the bits."""
    name, width = output["data_type"], int(output["dims"][-1])
    dtype = np.int16 if name == _BFLOAT16 else pb_utils.triton_string_to_numpy(name)
    return Wanted(dtype, width if width > 0 else None)


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
