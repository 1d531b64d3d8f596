"""The seam between the client and the wire: four verbs, one implementation a protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from periscope_client._contract import VISUAL_GRID
from periscope_client._errors import (
    AccessDenied,
    RequestError,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)

Tensors = Mapping[str, NDArray[Any]]


class Transport(Protocol):
    """The way to one server: tensors there and back. For tests, an object of one's own in the server's place.

    Every failure is raised as a `RequestError`; nothing is retried here. The methods run on the event loop of an
    `AsyncRetriever`, or on that of a `Retriever`'s own thread, several requests at a time.
    """

    async def infer(
        self, model: str, inputs: Tensors, outputs: Sequence[str], request_id: str = ""
    ) -> dict[str, NDArray[Any]]:
        """Those of `outputs` that the model produced. BYTES inputs are object arrays of bytes.

        An ensemble runs no step whose outputs nobody asked for. `request_id` is what the server calls the request.
        Raises: UnknownModel for a model that is not there, InvalidInput for an item that is refused.
        """

    async def config(self, model: str) -> dict[str, Any]:
        """The model's configuration, as Triton's JSON. Raises: UnknownModel for a model that is not there."""

    async def models(self) -> list[str]:
        """Names of the models that are ready."""

    async def close(self) -> None:
        """Release the connections."""


def datatype(array: NDArray[Any]) -> str:
    """Triton's name of an input's type."""
    return {"O": "BYTES", "f": "FP32", "i": "INT32"}[array.dtype.kind]


def text_tensor(value: bytes) -> NDArray[np.object_]:
    """One item as BYTES [1, 1]."""
    return strings((value,))[None]


def strings(values: Sequence[bytes]) -> NDArray[np.object_]:
    """Values as BYTES [N]."""
    # Assigned, not converted: numpy would strip zero bytes from the end of a bytes array.
    tensor_N = np.empty(len(values), dtype=np.object_)
    for place, value in enumerate(values):
        tensor_N[place] = value
    return tensor_N


def collect(result: Any, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The outputs `names` of one of tritonclient's results."""
    try:
        return {name: result.as_numpy(name) for name in names}
    except ValueError as error:
        raise UnexpectedAnswer(f"the server's tensors do not have the shapes that it gives them ({error})") from None


_UNKNOWN_MODEL = "Request for unknown model"
_RESTRICTED = re.compile(r"^This (?:API|protocol) is restricted")
_UNKNOWN_OUTPUT = "unexpected inference output"
_ENSEMBLE = re.compile(r"^(?:in ensemble '[^']*', |\[request id: [^\]]*\] )*")

# A server that starts or stops knows the names of models that it does not serve (yet, or any more).
_NOT_SERVED = re.compile(
    r"^Request for unknown model: .* has no available versions|^(?:Server|Model)\b.* not ready\b", re.IGNORECASE
)
_STEP = re.compile(r"^([a-z][a-z0-9_]*): ")
_ROW = re.compile(r"^(?:image|text|item|video|candidate|document) \d+: ")
_CRASH = re.compile(r"^Failed to process the request\(s\) for model '([^']*)', message: ")


def server_error(kind: type[RequestError], text: str) -> RequestError:
    """The server's message as an error of `kind`, split into step and message.

    The ensemble's prefix goes, and the item's number inside the request too: a request holds one item, and the caller
    knows it by its own number. A traceback is the server's business: its first line stays.

    >>> server_error(RequestError, "in ensemble 'r_embed_image', preprocess: image 0: cannot be decoded.").args
    ('cannot be decoded.', 'preprocess')
    """
    traceback = kind is ServerFault
    text = _ENSEMBLE.sub("", text.strip().partition("\n")[0] if traceback else " ".join(text.split()))
    if _NOT_SERVED.search(text):
        return ServerUnavailable(text)
    if text.startswith(_UNKNOWN_MODEL):
        return UnknownModel(text)
    if kind is AccessDenied or _RESTRICTED.match(text):
        return AccessDenied(f"access is refused ({text}). Give what the server expects (token, headers).")
    if text.startswith(_UNKNOWN_OUTPUT):
        remedy = "Export the checkpoint again with the version of periscope that is used here"
        if VISUAL_GRID in text:
            remedy += ". Of a retriever that cuts pages into tiles there are no similarity maps"
        return UnexpectedAnswer(f"{text}. {remedy}.")
    if traceback:
        return ServerFault(_CRASH.sub(r"\1: ", text) + " (the server's log says more)")
    step = _STEP.match(text)
    return kind(text) if step is None else kind(_ROW.sub("", text[step.end() :]), step[1])
