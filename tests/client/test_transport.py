"""The seam: what the wire says becomes the right error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from tritonclient.utils import InferenceServerException

from periscope_client import (
    AccessDenied,
    AsyncRetriever,
    InvalidInput,
    RequestError,
    RequestTimeout,
    Retriever,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._client import open_transport
from periscope_client._endpoint import Protocol, parse_endpoint
from periscope_client._transport import collect, server_error
from periscope_client._transport_grpc import GrpcTransport
from periscope_serve.server import Server


@pytest.mark.parametrize(
    ("kind", "text", "expected", "step", "message"),
    [
        (
            InvalidInput,
            "in ensemble 'r_embed', preprocess: image 0: bad. Do.",
            InvalidInput,
            "preprocess",
            "bad. Do.",
        ),
        (InvalidInput, "preprocess: role 'x' is unknown", InvalidInput, "preprocess", "role 'x' is unknown"),
        (InvalidInput, "preprocess: text 0: two\nlines", InvalidInput, "preprocess", "two lines"),
        (InvalidInput, "unexpected shape: [1,2]", InvalidInput, None, "unexpected shape: [1,2]"),
        (InvalidInput, "preprocess: token is not found", InvalidInput, "preprocess", "token is not found"),
        (UnknownModel, "Request for unknown model: 'x' has no available versions", ServerUnavailable, None, None),
        (UnknownModel, "Request for unknown model: 'x' is not found", UnknownModel, None, None),
        (ServerFault, "Model 'x' is not ready", ServerUnavailable, None, None),
        (ServerUnavailable, "Server not ready", ServerUnavailable, None, None),
        (
            InvalidInput,
            "preprocess: server not ready is no role",
            InvalidInput,
            "preprocess",
            "server not ready is no role",
        ),
        (
            ServerUnavailable,
            "This protocol is restricted, expecting header 'triton-grpc-protocol-x'",
            AccessDenied,
            None,
            "access is refused (This protocol is restricted, expecting header 'triton-grpc-protocol-x'). "
            "Give what the server expects (token, headers).",
        ),
        (
            ServerUnavailable,
            "[request id: <id_unknown>] in ensemble 'r', Server is stopping",
            ServerUnavailable,
            None,
            "Server is stopping",
        ),
        (ServerUnavailable, "Exceeds maximum queue size", ServerUnavailable, None, "Exceeds maximum queue size"),
        (
            InvalidInput,
            "unexpected inference output 'visual_grid' for model 'r_embed_image'",
            UnexpectedAnswer,
            None,
            "unexpected inference output 'visual_grid' for model 'r_embed_image'. Export the checkpoint again with the "
            "version of periscope that is used here. Of a retriever that cuts pages into tiles there are no similarity "
            "maps.",
        ),
        (
            ServerFault,
            "in ensemble 'r', Failed to process the request(s) for model 'late_0', message: KeyError: x\n\nAt:\n /a",
            ServerFault,
            None,
            "late_0: KeyError: x (the server's log says more)",
        ),
    ],
)
def test_server_errors(
    kind: type[RequestError], text: str, expected: type[RequestError], step: str | None, message: str | None
) -> None:
    error = server_error(kind, text)
    assert type(error) is expected
    assert error.step == step
    assert error.message == (message or text)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidInput),
        ("NOT_FOUND", UnknownModel),
        ("UNAVAILABLE", ServerUnavailable),
        ("CANCELLED", ServerUnavailable),
        ("DEADLINE_EXCEEDED", RequestTimeout),
        ("UNIMPLEMENTED", UnexpectedAnswer),
        ("UNAUTHENTICATED", AccessDenied),
        ("PERMISSION_DENIED", AccessDenied),
        ("RESOURCE_EXHAUSTED", ServerUnavailable),
        ("INTERNAL", ServerFault),
        ("SOMETHING_NEW", ServerFault),
    ],
)
def test_grpc_statuses(status: str, kind: type[RequestError]) -> None:
    error = InferenceServerException("why", f"StatusCode.{status}", "debug")
    translated = GrpcTransport._translate(parse_endpoint("h:1"), error)
    assert type(translated) is kind


@pytest.mark.parametrize("status", ["UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED"])
@pytest.mark.parametrize("text", ["Stream removed (Socket closed)", "Received RST_STREAM with error code 2"])
def test_grpc_connections_that_break(status: str, text: str) -> None:
    """In the middle of an answer the status is whatever the library was doing."""
    translated = GrpcTransport._translate(
        parse_endpoint("h:1"), InferenceServerException(text, f"StatusCode.{status}", "debug")
    )
    assert type(translated) is ServerUnavailable
    assert f"no server answers at h:1 over grpc ({text})" in translated.message


def test_damaged_output() -> None:
    class Result:
        def as_numpy(self, name: str) -> Any:
            return np.zeros(0).reshape(1, 2)

    with pytest.raises(UnexpectedAnswer, match="shapes that it gives them"):
        collect(Result(), ["late"])


Handler = Callable[[web.Request], web.Response]


@asynccontextmanager
async def web_server(handler: Handler) -> AsyncIterator[str]:
    """Something that speaks HTTP and is not Triton."""

    async def handle(request: web.Request) -> web.Response:
        return handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "127.0.0.1:{}".format(site.name.rpartition(":")[2])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("response", "kind", "message"),
    [
        ({"status": 200, "text": "<html>"}, UnexpectedAnswer, "not Triton's HTTP port"),
        ({"status": 404, "text": "<html>"}, UnexpectedAnswer, r"not Triton's HTTP port \(status 404\)"),
        (
            {"status": 403, "text": '{"error": "restricted"}'},
            AccessDenied,
            r"refused \(restricted\).*\(token, headers\)",
        ),
        ({"status": 401, "text": "<html>"}, AccessDenied, "status 401: it refuses requests without a token"),
        ({"status": 403, "text": '{"message": "no"}'}, AccessDenied, "status 403"),
        ({"status": 407, "text": "<html>"}, AccessDenied, "a proxy before .*status 407"),
        ({"status": 413, "text": "<html>"}, InvalidInput, "no request as large as this"),
        ({"status": 429, "text": "<html>"}, ServerUnavailable, "too many requests. Keep fewer in flight"),
        ({"status": 502, "text": "<html>bad gateway"}, ServerUnavailable, "the gateway at .* answers with status 502"),
        ({"status": 503, "text": '{"error": {"code": 503}}'}, ServerUnavailable, "answers with status 503"),
        ({"status": 504, "text": ""}, ServerUnavailable, "answers with status 504: it does not reach"),
        (
            {"status": 302, "headers": {"Location": "https://login.example/?back=secret"}},
            UnexpectedAnswer,
            r"redirects to https://login.example/ \(status 302\), which is not followed",
        ),
        ({"status": 503, "text": '{"error": "full"}'}, ServerUnavailable, "full"),
        ({"status": 400, "text": '{"error": "preprocess: bad"}'}, InvalidInput, "preprocess: bad"),
        ({"status": 500, "text": '{"error": "fell over"}'}, ServerFault, "fell over"),
    ],
)
def test_http_statuses(response: dict[str, Any], kind: type[RequestError], message: str) -> None:
    async def ask() -> None:
        async with web_server(lambda request: web.Response(**response)) as url:
            transport = open_transport(parse_endpoint(url, protocol="http"))
            try:
                with pytest.raises(kind, match=message) as caught:
                    await transport.config("toy_embed_text")
                assert type(caught.value) is kind
            finally:
                await transport.close()

    asyncio.run(ask())


def test_http_model_index_may_be_closed() -> None:
    """Operators restrict the index; the error of a wrong name must not become another error."""

    def handler(request: web.Request) -> web.Response:
        if request.path.endswith("index"):
            return web.Response(status=403, text=json.dumps({"error": "This API is restricted"}))
        return web.Response(status=404, text=json.dumps({"error": "Request for unknown model"}))

    async def ask() -> None:
        async with web_server(handler) as url, AsyncRetriever(url, "toy", protocol="http"):
            pass  # pragma: no cover

    with pytest.raises(UnknownModel, match=r"The server does not tell which it has \(.*This API is restricted"):
        asyncio.run(ask())


def test_a_path_that_triton_does_not_have(server: Server) -> None:
    with (
        pytest.raises(UnexpectedAnswer, match=r"status 404\)\. Is the path before /v2 right"),
        Retriever(f"http://{server.http_url}/prefix", "toy"),
    ):
        pass  # pragma: no cover


@pytest.mark.parametrize(("protocol", "kind"), [("grpc", ServerUnavailable), ("http", UnexpectedAnswer)])
def test_the_other_protocols_port(server: Server, protocol: Protocol, kind: type[RequestError]) -> None:
    url = server.url({"grpc": "http", "http": "grpc"}[protocol])
    with pytest.raises(kind, match=f"{url} .*800[01]"), Retriever(url, "toy", protocol=protocol, retries=0):
        pass  # pragma: no cover

    async def models() -> None:
        transport = open_transport(parse_endpoint(url, protocol=protocol))
        try:
            await transport.models()
        finally:
            await transport.close()

    with pytest.raises(kind):
        asyncio.run(models())
