"""Runs inside Triton: scores that depend on nothing but the query, the candidate and the instruction.

A candidate that cannot be read has a status and no score; a query that cannot be read fails the request. A candidate
that says "silence" has neither score nor status, which no healthy server does.
"""

import json
import zlib
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from shared import RefusedError, answer, instruction, misbehave, pixels, tensor  # type: ignore[import-not-found]


def content(text: bytes, image: bytes, frames: list[bytes]) -> bytes:
    """Text, pixels of the image and of all frames; refused when there is nothing."""
    if not (text or image or frames):
        raise RefusedError("is empty. Send a text, an image or a video.")
    misbehave(text.decode())
    parts = [text, pixels(image).tobytes() if image else b"", b"".join(pixels(frame).tobytes() for frame in frames)]
    return b"/".join(parts)


def only(values: list[bytes] | None) -> bytes:
    return b"" if values is None else values[0]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.most = int(parameters["max_candidates"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [answer(request, self.rerank) for request in requests]

    def rerank(self, request: Any) -> dict[str, Any]:
        candidates = self.candidates(request)
        asked = instruction(request)
        try:
            query = content(
                only(tensor(request, "QUERY_TEXT")),
                only(tensor(request, "QUERY_IMAGE")),
                tensor(request, "QUERY_VIDEO") or [],
            )
        except RefusedError as error:
            if error.code != pb_utils.TritonError.INVALID_ARG:
                raise
            raise RefusedError(f"preprocess: query: {error}") from None
        score_N1 = np.full((len(candidates), 1), np.nan, np.float32)
        status_N = np.full(len(candidates), b"", np.object_)
        for place, candidate in enumerate(candidates):
            try:
                document = content(*candidate)
            except RefusedError as error:
                if error.code != pb_utils.TritonError.INVALID_ARG:
                    raise
                status_N[place] = f"preprocess: candidate {place}: {error}".encode()
                continue
            if candidate[0] != b"silence":
                pair = (b"" if asked is None else asked, query, document)
                score_N1[place] = zlib.crc32(b"|".join(pair)) / 2**32
        return {"score": score_N1, "status": status_N}

    def candidates(self, request: Any) -> list[tuple[bytes, bytes, list[bytes]]]:
        texts, images, counts = (tensor(request, name) for name in ("TEXT", "IMAGE", "VIDEO_FRAMES"))
        lengths = {len(given) for given in (texts, images, counts) if given is not None}
        if len(lengths) != 1:
            raise RefusedError(f"preprocess: TEXT, IMAGE and VIDEO_FRAMES have {sorted(lengths)} entries.")
        (count,) = lengths
        if not 0 < count <= self.most:
            raise RefusedError(f"preprocess: {count} candidates. Send 1 to {self.most} in a request.")
        frames, videos = list(tensor(request, "VIDEO") or []), []
        for length in counts or [0] * count:
            videos.append(frames[:length])
            del frames[:length]
        if frames:
            raise RefusedError("preprocess: VIDEO has more frames than VIDEO_FRAMES says.")
        return list(zip(texts or [b""] * count, images or [b""] * count, videos, strict=True))
