"""Runs inside Triton: vectors that depend on nothing but the item's bytes (text) or pixels (image, video), its role,
its instruction and the text beside it.
"""

import re
import zlib
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from shared import RefusedError, answer, instruction, misbehave, pixels, tensor  # type: ignore[import-not-found]

WIDTH = 4
ROLES = ("query", "document")


def vectors(role: str, content: bytes, tokens: int, dimensions: Any) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(zlib.crc32(role.encode() + b"/" + content))
    late_TK = generator.standard_normal((tokens, WIDTH)).astype(np.float32)
    late_TK /= np.linalg.norm(late_TK, axis=1, keepdims=True)
    padded = -(-tokens // 4) * 4
    late_BTK = np.zeros((1, padded, WIDTH), np.float32)
    late_BTK[0, :tokens] = late_TK
    mask_BT = np.zeros((1, padded), np.int32)
    mask_BT[0, :tokens] = 1
    dense_BD = late_TK.mean(axis=0, keepdims=True)
    if dimensions is not None:
        dense_BD = dense_BD[:, : dimensions[0]]
        dense_BD = dense_BD / np.linalg.norm(dense_BD)
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


def visual(request: Any) -> tuple[bytes, int]:
    """Pixels of the image or of all frames, and how many tokens they become."""
    kind = "image" if tensor(request, "VIDEO") is None else "video"
    content, width = b"", 0
    for index, file in enumerate(tensor(request, kind.upper())):
        try:
            frame = pixels(file)
        except RefusedError as error:
            where = f"frame {index} " if kind == "video" else ""
            raise RefusedError(f"preprocess: {kind} 0: {where}{error}") from None
        content += frame.tobytes()
        width += frame.width
    return content, max(1, width // 8)


def embed(request: Any) -> dict[str, Any]:
    text = tensor(request, "TEXT")
    only_text = tensor(request, "IMAGE") is None and tensor(request, "VIDEO") is None
    role = tensor(request, "ROLE")
    role = ("query" if only_text else "document") if role is None else role[0].decode()
    if role not in ROLES:
        raise RefusedError(f"preprocess: role {role!r} is unknown. Use one of: {', '.join(ROLES)}.")
    asked = instruction(request)
    if asked is not None:
        role += "/" + asked.decode()
    if text is not None:
        try:
            misbehave(text[0].decode())
        except RefusedError as error:
            if error.code != pb_utils.TritonError.INVALID_ARG:
                raise
            raise RefusedError(f"preprocess: text 0: {error}") from None
    if only_text:
        content, tokens = text[0], 1 + len(text[0].decode().split())
    else:
        content, tokens = visual(request)
        content += b"/" + text[0] if text and text[0] else b""
    late_BTK, mask_BT, dense_BD = vectors(role, content, tokens, tensor(request, "DIMENSIONS"))
    places = {"token_spans": spans(text[0].decode(), mask_BT.shape[1])} if only_text else {"visual_grid": grid(tokens)}
    return {"late": late_BTK, "late_mask": mask_BT, "dense": dense_BD, **places}


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [answer(request, embed) for request in requests]
