"""Preparation inside Triton: the items of a batch in threads, one answer a request.

The same file prepares texts and images: the config's first input, TEXT or IMAGE, says which. `recipe.json` and
`tokenizer.json` lie beside it. Needs the package `periscope_runtime` in the interpreter of Triton's Python backend.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from periscope_runtime.bfloat16 import bfloat16_capsule
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Preparer, Row, collate, no_visual_tokens


class TritonPythonModel:
    """One request holds B items of one kind; an item that cannot be prepared fails its own request and no other."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the recipe and the tokenizer."""
        config = json.loads(args["model_config"])
        self._kind = config["input"][0]["name"]
        self._preparer = Preparer(Path(args["model_repository"]) / args["model_version"])
        self._prepare = {"TEXT": self._preparer.text, "IMAGE": self._preparer.image}[self._kind]
        self._outputs = {output["name"]: output for output in config["output"]}
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="prepare")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Prepare all items of all requests side by side; pillow and tokenizers release the interpreter."""
        pending = [
            [self._threads.submit(self._row, index, *item) for index, item in enumerate(self._items(request))]
            for request in requests
        ]
        return [self._answer(rows) for rows in pending]

    def finalize(self) -> None:
        """Stop the threads."""
        self._threads.shutdown()

    def _items(self, request: Any) -> list[tuple[bytes, bytes | None]]:
        contents = pb_utils.get_input_tensor_by_name(request, self._kind).as_numpy().ravel()
        role_tensor = pb_utils.get_input_tensor_by_name(request, "ROLE")
        roles = [None] * len(contents) if role_tensor is None else role_tensor.as_numpy().ravel()
        return list(zip(contents, roles, strict=True))

    def _row(self, index: int, data: bytes, role: bytes | None) -> Row | str:
        """Return the prepared item, or the message that says why not."""
        try:
            return self._prepare(data, None if role is None else role.decode(errors="replace"))
        except PreparationError as error:
            return error.at("preprocess", f"{self._kind.lower()} {index}")

    def _answer(self, pending: list[Future[Row | str]]) -> Any:
        # Whatever is raised here would fail every request of the batch, with a traceback for its callers to read.
        try:
            rows = [row.result() for row in pending]
            messages = [row for row in rows if isinstance(row, str)]
            if messages:
                return _error(" ".join(messages), pb_utils.TritonError.INVALID_ARG)
            return self._tensors([row for row in rows if isinstance(row, Row)])
        except Exception as error:
            pb_utils.Logger.log_error(f"preprocess: {type(error).__name__}: {error}")
            message = f"preprocess: failed unexpectedly ({type(error).__name__}). See the server's log."
            return _error(message, pb_utils.TritonError.INTERNAL)

    def _tensors(self, rows: list[Row]) -> Any:
        tensors = collate(rows, self._preparer.preparation.buckets)
        outputs = [pb_utils.Tensor(name, tensors[name]) for name in self._outputs if name != "visual_tokens"]
        if "visual_tokens" in self._outputs:
            output = self._outputs["visual_tokens"]
            outputs.append(_no_visual_tokens(len(rows), int(output["dims"][-1]), output["data_type"]))
        return pb_utils.InferenceResponse(outputs)


def _no_visual_tokens(rows: int, width: int, data_type: str) -> Any:
    """Return the tensor [B, 0, H] that the language model takes beside texts, in the precision of its graph."""
    if data_type != "TYPE_BF16":
        dtype = pb_utils.triton_string_to_numpy(data_type)
        return pb_utils.Tensor("visual_tokens", no_visual_tokens(rows, width, dtype))
    return pb_utils.Tensor.from_dlpack("visual_tokens", bfloat16_capsule(no_visual_tokens(rows, width, np.int16)))


def _error(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
