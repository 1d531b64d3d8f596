"""The transport over gRPC."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from typing import Any

import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from periscope_client._endpoint import Endpoint
from periscope_client._errors import (
    AccessDenied,
    InvalidInput,
    RequestError,
    RequestTimeout,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
    UnusableRetriever,
)
from periscope_client._gateway import gateway_error, tls_error, unreachable
from periscope_client._transport import Tensors, collect, datatype, server_error

_KINDS: dict[str, type[RequestError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "NOT_FOUND": UnknownModel,
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
    "UNAVAILABLE": ServerUnavailable,
    "CANCELLED": ServerUnavailable,  # by the server, which ends: our own cancellations do not come back as answers
    "DEADLINE_EXCEEDED": RequestTimeout,
    "UNIMPLEMENTED": UnexpectedAnswer,
    "RESOURCE_EXHAUSTED": ServerUnavailable,
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

# Without it, the first that answers is called and no other.
_SPREAD = [("grpc.lb_policy_name", "round_robin")]

# Triton 2.51 can end with signal 11 when a request is cancelled in the moment of its answer (docs/serving.md). A caller
# who leaves early does so just after sending, often, when the answer is near. So a request that nobody waits for any
# more has this many seconds to be answered before it is cancelled.
_GRACE = 1.0

# A broken connection and a server that declines (a full queue) have the same status; the text tells them apart.
_BROKEN = re.compile(
    "failed to connect|errors resolving|socket closed|connection reset|goaway|broken pipe|rst_stream|stream removed",
    re.IGNORECASE,
)
_MAY_BE_BROKEN = {"UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED"}

# A gateway that does not speak gRPC, or answers before it does.
_STATUS = re.compile(r"http2? (?:header with )?status: (\d{3})", re.IGNORECASE)

_TOO_LARGE = re.compile("message larger than", re.IGNORECASE)


# The process that was the first to use gRPC. In its children gRPC ends with signal 11, or waits for ever.
_first_used_in: int | None = None


class GrpcTransport:
    """`Transport` over `tritonclient.grpc.aio`. Raises: UnusableRetriever where gRPC cannot be used."""

    def __init__(self, endpoint: Endpoint) -> None:
        global _first_used_in
        _first_used_in = _first_used_in or os.getpid()
        if _first_used_in != os.getpid():
            raise UnusableRetriever(
                "gRPC does not work in a process that was forked from one which had used it, as this one was. Start "
                "processes by 'spawn' or 'forkserver' (multiprocessing.get_context), or fork before a retriever is "
                "first used, or use HTTP here (protocol='http', or an http:// or https:// URL)."
            )
        self._endpoint = endpoint
        tls = endpoint.tls
        self._client = triton.InferenceServerClient(
            endpoint.address,
            channel_args=_CHANNEL + (_SPREAD if endpoint.is_target else []),
            ssl=tls is not None,
            root_certificates=tls and tls.ca,
            certificate_chain=tls and tls.cert,
            private_key=tls and (tls.key or tls.cert),
        )
        self._in_flight: set[asyncio.Future[triton.InferResult]] = set()

    async def infer(
        self, model: str, inputs: Tensors, outputs: Sequence[str], request_id: str = ""
    ) -> dict[str, NDArray[Any]]:
        """See `Transport`."""
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, array.shape, datatype(array))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        asked = [triton.InferRequestedOutput(name) for name in outputs]
        answer = asyncio.ensure_future(
            self._client.infer(
                model, tensors, outputs=asked, request_id=request_id, headers=dict(self._endpoint.headers)
            )
        )
        self._in_flight.add(answer)
        answer.add_done_callback(self._in_flight.discard)
        try:
            result = await asyncio.shield(answer)
        except InferenceServerException as error:
            raise self._translate(self._endpoint, error) from None
        except asyncio.CancelledError:
            if answer.cancelled():  # by close(), not by whoever waits for it
                raise UnusableRetriever("this retriever was closed before the answer came") from None
            asyncio.get_running_loop().call_later(_GRACE, answer.cancel)
            raise
        return collect(result, [output.name for output in result.get_response().outputs])

    async def config(self, model: str) -> dict[str, Any]:
        """See `Transport`."""
        headers = dict(self._endpoint.headers)
        try:
            config: dict[str, Any] = (await self._client.get_model_config(model, headers=headers, as_json=True))[
                "config"
            ]
        except InferenceServerException as error:
            raise self._translate(self._endpoint, error) from None
        return config

    async def models(self) -> list[str]:
        """See `Transport`."""
        try:
            index = await self._client.get_model_repository_index(headers=dict(self._endpoint.headers), as_json=True)
        except InferenceServerException as error:
            raise self._translate(self._endpoint, error) from None
        return [entry["name"] for entry in index.get("models", []) if entry.get("state") == "READY"]

    async def close(self) -> None:
        """See `Transport`. What is in flight has a moment to be answered, whoever has left it."""
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=_GRACE)
        await self._client.close()

    @staticmethod
    def _translate(endpoint: Endpoint, error: InferenceServerException) -> RequestError:
        text = error.message() or "no details"
        status = str(error.status()).removeprefix("StatusCode.")
        kind = _KINDS.get(status, ServerFault)
        if found := _STATUS.search(text):
            answered = gateway_error(endpoint, int(found[1]))
            if answered is not None:
                return answered
        if status == "RESOURCE_EXHAUSTED" and _TOO_LARGE.search(text):
            return InvalidInput(f"{text}. Send less at once, or raise the limit of what stands at {endpoint}.")
        if kind is ServerUnavailable and (untrusted := tls_error(endpoint, text)):
            return untrusted
        if status in _MAY_BE_BROKEN and _BROKEN.search(text):
            return unreachable(endpoint, text)
        return server_error(kind, text)
