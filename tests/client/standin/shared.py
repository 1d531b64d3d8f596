"""Runs inside Triton: what encoder and reranker of the stand-in have in common, how they read and how they misbehave.

Texts that begin with a known word misbehave on purpose:
"refuse: WHY", "fault", "sleep: SECONDS", "crash", "busy: TIMES FILE" (unavailable that often, counted in the file).
"""

import io
import os
import time
from typing import Any

import triton_python_backend_utils as pb_utils
from PIL import Image

TASKS = {"find": "Find it.", "compare": "Compare it."}


class RefusedError(Exception):
    """Answered as an error of one request."""

    def __init__(self, text: str, code: Any = None) -> None:
        super().__init__(text)
        self.code = pb_utils.TritonError.INVALID_ARG if code is None else code


def misbehave(text: str) -> None:
    word, _, rest = text.partition(": ")
    if word == "refuse":
        raise RefusedError(rest)
    if word == "fault":
        raise RefusedError("the graph fell over", pb_utils.TritonError.INTERNAL)
    if word == "sleep":
        time.sleep(float(rest))
    if word == "busy":
        times, path = rest.split()
        with open(path, "a+") as file:
            file.write(".")
        if os.path.getsize(path) <= int(times):
            raise RefusedError("the queue is full", pb_utils.TritonError.UNAVAILABLE)
    if word == "crash":
        os._exit(1)


def pixels(image: bytes) -> Any:
    try:
        return Image.open(io.BytesIO(image)).convert("RGB")
    except OSError as error:
        raise RefusedError(
            f"cannot be decoded ({type(error).__name__}). Send a PNG, JPEG, WebP, GIF or TIFF file."
        ) from None


def tensor(request: Any, name: str) -> Any:
    """A flat list, or None."""
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None else found.as_numpy().ravel().tolist()


def instruction(request: Any) -> bytes | None:
    instruction, task = tensor(request, "INSTRUCTION"), tensor(request, "TASK")
    if task is not None:
        # As a task with an instruction of its own.
        if instruction is not None:
            raise RefusedError("preprocess: text 0: has both an instruction and a task. Send one of them.")
        name = task[0].decode()
        if name not in TASKS:
            raise RefusedError(f"preprocess: task {name!r} is unknown. Use one of: {', '.join(TASKS)}.")
        return TASKS[name].encode()
    if instruction is not None and not instruction[0]:
        raise RefusedError("preprocess: text 0: has an instruction that is empty. Leave it out.")
    return None if instruction is None else instruction[0]


def answer(request: Any, compute: Any) -> Any:
    try:
        outputs = compute(request)
    except RefusedError as error:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), error.code))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensor) for name, tensor in outputs.items()])
