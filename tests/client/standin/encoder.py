"""Runs inside Triton: vectors that depend on nothing but the item's bytes (text) or pixels (image) and its role.

Texts that begin with a known word misbehave on purpose:
"refuse: WHY", "fault", "sleep: SECONDS", "crash", "busy: TIMES FILE" (unavailable that often, counted in the file).
"""

import io
import os
import re
import time
import zlib
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

WIDTH = 4
ROLES = ("query", "document")


class RefusedError(Exception):
    """Answered as an error of one request."""

    def __init__(self, text: str, code: Any) -> None:
        super().__init__(text)
        self.code = code


def vectors(role: str, content: bytes, tokens: int) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(zlib.crc32(role.encode() + b"/" + content))
    late_TK = generator.standard_normal((tokens, WIDTH)).astype(np.float32)
    late_TK /= np.linalg.norm(late_TK, axis=1, keepdims=True)
    padded = -(-tokens // 4) * 4
    late_BTK = np.zeros((1, padded, WIDTH), np.float32)
    late_BTK[0, :tokens] = late_TK
    mask_BT = np.zeros((1, padded), np.int32)
    mask_BT[0, :tokens] = 1
    dense_BD = late_TK.mean(axis=0, keepdims=True)
    return late_BTK, mask_BT, dense_BD


def spans(text: str, padded: int) -> Any:
    """The prompt's token, then one a word: its characters and the space before it."""
    spans_BT2 = np.zeros((1, padded, 2), np.int32)
    for token, word in enumerate(re.finditer(r"\s?\S+", text), start=1):
        spans_BT2[0, token] = word.span()
    return spans_BT2


def grid(tokens: int) -> Any:
    """Two rows between the first token of the page and its last."""
    columns = (tokens - 1) // 2
    return np.array([[1, 2, columns]], np.int32)


def misbehave(text: str) -> None:
    word, _, rest = text.partition(": ")
    if word == "refuse":
        raise RefusedError(f"preprocess: text 0: {rest}", pb_utils.TritonError.INVALID_ARG)
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


def item(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()[0, 0]


def embed(request: Any) -> dict[str, Any]:
    role, text, image = item(request, "ROLE"), item(request, "TEXT"), item(request, "IMAGE")
    role = (b"query" if image is None else b"document") if role is None else role
    if role.decode() not in ROLES:
        raise RefusedError(
            f"preprocess: role {role.decode()!r} is unknown. Use one of: {', '.join(ROLES)}.",
            pb_utils.TritonError.INVALID_ARG,
        )
    if image is None:
        misbehave(text.decode())
        late_BTK, mask_BT, dense_BD = vectors(role.decode(), text, 1 + len(text.decode().split()))
        places = {"token_spans": spans(text.decode(), mask_BT.shape[1])}
        return {"late": late_BTK, "late_mask": mask_BT, "dense": dense_BD, **places}
    try:
        pixels = Image.open(io.BytesIO(image)).convert("RGB")
    except OSError as error:
        raise RefusedError(
            f"preprocess: image 0: cannot be decoded ({type(error).__name__}). "
            "Send a PNG, JPEG, WebP, GIF or TIFF file.",
            pb_utils.TritonError.INVALID_ARG,
        ) from None
    tokens = max(1, pixels.width // 8)
    late_BTK, mask_BT, dense_BD = vectors(role.decode(), pixels.tobytes(), tokens)
    return {"late": late_BTK, "late_mask": mask_BT, "dense": dense_BD, "visual_grid": grid(tokens)}


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                outputs = embed(request)
            except RefusedError as error:
                failure = pb_utils.TritonError(str(error), error.code)
                responses.append(pb_utils.InferenceResponse(error=failure))
                continue
            tensors = [pb_utils.Tensor(name, tensor) for name, tensor in outputs.items()]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
