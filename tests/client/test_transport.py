"""The seam: what the wire says becomes the right error, and odd answers are refused."""

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
    AsyncRetriever,
    FingerprintMismatch,
    InvalidInput,
    RequestError,
    RequestTimeout,
    Retriever,
    ServerFault,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
    _connection,
)
from periscope_client._client import Protocol
from periscope_client._timeout import Timeout, call_with_retries
from periscope_client._transport import Tensors, collect, open_transport, server_error
from periscope_client._transport_grpc import GrpcTransport
from periscope_serve.server import Server

from .fake import FakeTransport, Outputs, answer, config


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
        (ServerUnavailable, "Request for unknown model: 'x' has no available versions", UnknownModel, None, None),
        (ServerUnavailable, "Exceeds maximum queue size", ServerUnavailable, None, "Exceeds maximum queue size"),
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
        ("DEADLINE_EXCEEDED", RequestTimeout),
        ("UNIMPLEMENTED", UnexpectedAnswer),
        ("INTERNAL", ServerFault),
        ("SOMETHING_NEW", ServerFault),
    ],
)
def test_grpc_statuses(status: str, kind: type[RequestError]) -> None:
    translated = GrpcTransport._translate("h:1", InferenceServerException("why", f"StatusCode.{status}", "debug"))
    assert type(translated) is kind


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
        ({"status": 403, "text": '{"error": "restricted"}'}, UnexpectedAnswer, "restricted"),
        ({"status": 502, "text": "<html>bad gateway"}, ServerUnavailable, "the gateway at .* answers with status 502"),
        ({"status": 503, "text": '{"error": "full"}'}, ServerUnavailable, "full"),
        ({"status": 400, "text": '{"error": "preprocess: bad"}'}, InvalidInput, "preprocess: bad"),
        ({"status": 500, "text": '{"error": "fell over"}'}, ServerFault, "fell over"),
    ],
)
def test_http_statuses(response: dict[str, Any], kind: type[RequestError], message: str) -> None:
    async def ask() -> None:
        async with web_server(lambda request: web.Response(**response)) as url:
            transport = open_transport("http", url)
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

    with pytest.raises(UnknownModel, match=r"The server does not tell which it has \(This API is restricted\)"):
        asyncio.run(ask())


@pytest.mark.parametrize(("protocol", "kind"), [("grpc", ServerUnavailable), ("http", UnexpectedAnswer)])
def test_the_other_protocols_port(server: Server, protocol: Protocol, kind: type[RequestError]) -> None:
    url = server.url({"grpc": "http", "http": "grpc"}[protocol])
    with pytest.raises(kind, match=f"{url} .*800[01]"), Retriever(url, "toy", protocol=protocol, retries=0):
        pass  # pragma: no cover

    async def models() -> None:
        transport = open_transport(protocol, url)
        try:
            await transport.models()
        finally:
            await transport.close()

    with pytest.raises(kind):
        asyncio.run(models())


def test_server_without_retrievers(transport: FakeTransport) -> None:
    transport.description = UnknownModel("no")
    transport.index = ["resnet", "bert"]
    with (
        pytest.raises(UnknownModel, match="none at all, only these models: bert, resnet"),
        Retriever("a:1", "toy"),
    ):
        pass  # pragma: no cover
    assert transport.closed


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (config(fingerprint=None), "lacks the parameter 'fingerprint'"),
        (config(fingerprint=""), "lacks the parameter 'fingerprint'"),
        ({"output": []}, "lacks the parameter 'fingerprint'"),
        (config(outputs=("late",)), "without the mask"),
        (config(outputs=("score",)), "neither late nor dense"),
    ],
)
def test_configurations_that_break_the_contract(
    transport: FakeTransport, description: dict[str, Any], message: str
) -> None:
    transport.description = description
    with pytest.raises(UnexpectedAnswer, match=message), Retriever("fake:1", "toy"):
        pass  # pragma: no cover


def without(name: str) -> Outputs:
    outputs = answer()
    del outputs[name]
    return outputs


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (without("late"), "'late' is missing"),
        (without("late_mask"), "'late_mask' is missing"),
        (answer() | {"late": np.zeros((3, 2), np.float32)}, r"'late' has the shape \(3, 2\)"),
        (answer() | {"late": np.zeros((2, 3, 2), np.float32)}, r"'late' has the shape \(2, 3, 2\)"),
        (answer() | {"late_mask": np.ones((1, 4), np.int32)}, "do not fit together"),
    ],
)
def test_answers_that_break_the_contract(transport: FakeTransport, reply: Outputs, message: str) -> None:
    transport.reply = reply
    with Retriever("fake:1", "toy") as retriever:
        kept = retriever.embed_text(["a"], on_error="keep")
    assert isinstance(kept.errors[0].cause, UnexpectedAnswer)
    with pytest.raises(UnexpectedAnswer, match=message):
        raise kept.errors[0].cause


def test_different_weights_for_texts_and_images(server: Server) -> None:
    with (
        pytest.raises(FingerprintMismatch, match="fingerprints weights-a and not-weights-a"),
        Retriever(server.grpc_url, "split"),
    ):
        pass  # pragma: no cover


def test_inputs_on_the_wire(transport: FakeTransport) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        sent.append((model, {name: array.tolist() for name, array in inputs.items()}))
        return answer()

    transport.reply = reply
    with Retriever("fake:1", "toy") as retriever:
        retriever.embed_text(["ä"], role="document")
        retriever.embed_text(["a"], role=None)
        retriever.embed_image([b"ends with zeros\0\0"])
    assert sent == [
        ("toy_embed_text", {"TEXT": [["ä".encode()]], "ROLE": [[b"document"]]}),
        ("toy_embed_text", {"TEXT": [[b"a"]]}),
        ("toy_embed_image", {"IMAGE": [[b"ends with zeros\0\0"]], "ROLE": [[b"document"]]}),
    ]


def test_fingerprint_is_read_again_when_it_may_be_old(
    transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Retriever("fake:1", "toy") as retriever:
        for _ in range(20):
            retriever.embed_text(["a"])
        assert transport.configs_read == 2, "once for texts, once for images, and not again within a second"
        monkeypatch.setattr(_connection, "FRESH_SECONDS", 0.0)
        transport.description = ServerUnavailable("gone just now")
        assert len(retriever.embed_text(["a"])) == 1, "vectors that have arrived are not dropped for that"
        transport.description = config("g")
        with pytest.raises(FingerprintMismatch, match="f before, g now"):
            retriever.embed_text(["a"])
        assert retriever.embed_text(["a"]).fingerprint == "g"


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def call() -> None:
        raise ServerUnavailable("busy", "preprocess")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(ServerUnavailable, match=r"^preprocess: busy \(9 attempts in"):
        asyncio.run(call_with_retries(call, seconds=1000, retries=8))
    assert len(pauses) == 8
    for pause, longest in zip(pauses, [0.25, 0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert longest / 2 <= pause <= longest
    pauses.clear()
    with pytest.raises(ServerUnavailable, match="attempts"):
        asyncio.run(call_with_retries(call, seconds=0.2, retries=8))
    assert len(pauses) < 2, "no pause beyond the time limit"


def test_timeouts() -> None:
    assert Timeout.of(3) == Timeout(3.0, 3.0)
    assert Timeout.of(Timeout(request=5)) == Timeout(30.0, 5)
    with pytest.raises(ValueError, match="positive"):
        Timeout(connect=-1)


def test_a_change_of_weights_concerns_every_call_in_flight(transport: FakeTransport) -> None:
    """One call notices the change first; the other must not take the new weights for those it began with."""

    async def embed() -> tuple[object, object]:
        async with AsyncRetriever("fake:1", "toy") as retriever:
            retries: list[str] = []

            def reply(model: str, inputs: Tensors) -> Outputs:
                if len(retries) < 2:
                    retries.append(model)
                    transport.description = config("g")
                    raise ServerUnavailable("restarting")
                return answer()

            transport.reply = reply
            calls = (retriever.embed_text(["a"]), retriever.embed_image([b"b"]))
            return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(embed())] == [FingerprintMismatch] * 2


def test_a_change_that_another_call_has_noticed(transport: FakeTransport) -> None:
    """The change was read a moment ago, so nothing is read again; the call that began before it fails all the same."""

    async def embed() -> tuple[object, object]:
        async with AsyncRetriever("fake:1", "toy") as retriever:
            noticed = asyncio.Event()

            def reply(model: str, inputs: Tensors) -> Outputs:
                if model == "toy_embed_text" and transport.description == config("f"):
                    transport.description = config("g")
                    raise ServerUnavailable("restarting")
                return answer()

            transport.reply = reply
            infer = transport.infer

            async def wait_for_the_other(model: str, inputs: Tensors) -> Outputs:
                outputs = await infer(model, inputs)
                if model == "toy_embed_image":
                    await noticed.wait()
                return outputs

            transport.infer = wait_for_the_other  # type: ignore[method-assign]
            image = asyncio.ensure_future(retriever.embed_image([b"b"]))
            text = (await asyncio.gather(retriever.embed_text(["a"]), return_exceptions=True))[0]
            noticed.set()
            return text, (await asyncio.gather(image, return_exceptions=True))[0]

    assert [type(outcome) for outcome in asyncio.run(embed())] == [FingerprintMismatch] * 2
