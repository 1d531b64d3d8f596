"""The transport over gRPC."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from periscope_client._errors import (
    InvalidInput,
    RequestError,
    RequestTimeout,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._transport import Tensors, collect, datatype, server_error, unreachable

_KINDS: dict[str, type[RequestError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "NOT_FOUND": UnknownModel,
    "UNAVAILABLE": ServerUnavailable,
    "DEADLINE_EXCEEDED": RequestTimeout,
    "UNIMPLEMENTED": UnexpectedAnswer,
}

_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default a channel that lost its server waits up to two minutes before it tries again and refuses every request
    # until then, which would make our own retries idle.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    # As over HTTP: a model server is not behind the proxy that the environment names for the web.
    ("grpc.enable_http_proxy", 0),
]

# Triton 2.51 can end with signal 11 when a request is cancelled in the moment of its answer (docs/serving.md). A caller
# who leaves early does so just after sending, often, when the answer is near. So a request that nobody waits for any
# more has this many seconds to be answered before it is cancelled.
_GRACE = 1.0

# A broken connection and a server that declines (a full queue) have the same status; the text tells them apart.
_BROKEN = re.compile(
    "failed to connect|errors resolving|socket closed|connection reset|goaway|broken pipe", re.IGNORECASE
)


class GrpcTransport:
    """`Transport` over `tritonclient.grpc.aio`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = triton.InferenceServerClient(address, channel_args=_CHANNEL)
        self._in_flight: set[asyncio.Future[triton.InferResult]] = set()

    async def infer(self, model: str, inputs: Tensors, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, array.shape, datatype(array))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        asked = [triton.InferRequestedOutput(name) for name in outputs]
        answer = asyncio.ensure_future(self._client.infer(model, tensors, outputs=asked))
        self._in_flight.add(answer)
        answer.add_done_callback(self._in_flight.discard)
        try:
            result = await asyncio.shield(answer)
        except InferenceServerException as error:
            raise self._translate(self._address, error) from None
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(_GRACE, answer.cancel)
            raise
        return collect(result, [output.name for output in result.get_response().outputs])

    async def config(self, model: str) -> dict[str, Any]:
        """See `Transport`."""
        try:
            config: dict[str, Any] = (await self._client.get_model_config(model, as_json=True))["config"]
        except InferenceServerException as error:
            raise self._translate(self._address, error) from None
        return config

    async def models(self) -> list[str]:
        """See `Transport`."""
        try:
            index = await self._client.get_model_repository_index(as_json=True)
        except InferenceServerException as error:
            raise self._translate(self._address, error) from None
        return [entry["name"] for entry in index.get("models", []) if entry.get("state") == "READY"]

    async def close(self) -> None:
        """See `Transport`. What is in flight has a moment to be answered, whoever has left it."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=_GRACE)
        await self._client.close()

    @staticmethod
    def _translate(address: str, error: InferenceServerException) -> RequestError:
        text = error.message() or "no details"
        kind = _KINDS.get(str(error.status()).removeprefix("StatusCode."), ServerFault)
        if kind is ServerUnavailable and _BROKEN.search(text):
            return unreachable(address, "grpc", text)
        return server_error(kind, text)
