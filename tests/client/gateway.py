"""A gateway as operators put before Triton: TLS, bearer tokens, a path of its own; over both protocols."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2

TOKEN = "let-me-in"
PREFIX = "/team/a"
LARGEST = 64 << 20


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: an authority, another one, and what the first has signed for this machine and for another name."""

    ca: Path
    stranger: Path
    here: Path
    elsewhere: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name in ("ca", "stranger"):
        openssl("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    signed = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
    for name, names in (("here", "DNS:localhost,IP:127.0.0.1,IP:::1"), ("elsewhere", "DNS:elsewhere.example")):
        (folder / "names").write_text(f"subjectAltName={names}")
        openssl(*signed, "-extfile", "names", "-out", f"{name}.pem")
    files = {name: folder / f"{name}.pem" for name in ("ca", "stranger", "here", "elsewhere")}
    return Certificates(key=folder / "server.key", **files)


@dataclass
class Seen:
    """The requests of a client to one gateway."""

    calls: int = 0
    ids: list[str] = field(default_factory=list)
    teams: set[str | None] = field(default_factory=set)


class Gateway:
    """Listens where it is told to, and passes on to a server what comes with the right token.

    Over HTTP the server is under `PREFIX`, `/moved` leads there, and `/status/NNN` answers with that status.
    """

    def __init__(self, certificates: Certificates, grpc_url: str, http_url: str) -> None:
        self._certificates = certificates
        self._servers = {"grpc": grpc_url, "http": http_url}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._ends: list[Callable[[], Coroutine[Any, Any, Any]]] = []

    def listen(
        self, protocol: str, certificate: Path | None = None, *, host: str = "127.0.0.1", clients: bool = False
    ) -> tuple[int, Seen]:
        """A port, over TLS with a certificate, and asking clients for theirs; and what is seen on it."""
        begin = {"grpc": self._listen_grpc, "http": self._listen_http}[protocol]
        seen = Seen()
        return self._run(begin(certificate, host, clients, seen)), seen

    def stop(self) -> None:
        for end in reversed(self._ends):
            self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen_http(self, certificate: Path | None, host: str, clients: bool, seen: Seen) -> int:
        # As it comes: not compressed by the server, and not touched here.
        session = aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"])
        self._ends.append(session.close)

        async def handle(request: web.Request) -> web.Response:
            seen.calls += 1
            seen.teams.add(request.headers.get("x-team"))
            if request.path.startswith("/status/"):
                return web.Response(status=int(request.path.split("/")[2]), text="<html>the gateway's own page</html>")
            if request.path.startswith("/moved"):
                raise web.HTTPTemporaryRedirect(request.path.replace("/moved", PREFIX) + "?secret=1")
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return web.Response(status=401, text="<html>who are you?</html>")
            if not request.path.startswith(PREFIX):
                return web.Response(status=404, text="<html>nothing here</html>")
            body = await request.read()
            if length := request.headers.get("inference-header-content-length"):
                seen.ids.append(json.loads(body[: int(length)]).get("id", ""))
            kept = {name: value for name, value in request.headers.items() if name.lower().startswith("inference")}
            target = f"http://{self._servers['http']}{request.path.removeprefix(PREFIX)}"
            async with session.request(request.method, target, data=body, headers=kept) as answer:
                passed = {name: value for name, value in answer.headers.items() if name.lower().startswith("inference")}
                return web.Response(status=answer.status, body=await answer.read(), headers=passed)

        app = web.Application(client_max_size=LARGEST)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        self._ends.append(runner.cleanup)
        context = None
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, self._certificates.key)
            if clients:
                context.load_verify_locations(self._certificates.ca)
                context.verify_mode = ssl.CERT_REQUIRED
        site = web.TCPSite(runner, host, 0, ssl_context=context)
        await site.start()
        return int(runner.addresses[0][1])

    async def _listen_grpc(self, certificate: Path | None, host: str, clients: bool, seen: Seen) -> int:
        options = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
        channel = grpc.aio.insecure_channel(self._servers["grpc"], options=options)
        self._ends.append(channel.close)

        class Pass(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
                async def handle(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
                    seen.calls += 1
                    sent = dict(context.invocation_metadata())
                    seen.teams.add(sent.get("x-team"))
                    if certificate is not None and sent.get("authorization") != f"Bearer {TOKEN}":
                        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Jwt is missing")
                    if details.method.endswith("ModelInfer"):
                        seen.ids.append(service_pb2.ModelInferRequest.FromString(body).id)
                    try:
                        answer: bytes = await channel.unary_unary(details.method)(body)
                    except grpc.aio.AioRpcError as error:
                        await context.abort(error.code(), error.details())
                    return answer

                return grpc.unary_unary_rpc_method_handler(handle)

        server = grpc.aio.server(options=[*options, ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([Pass()])
        address = f"[{host}]:0" if ":" in host else f"{host}:0"
        if certificate is None:
            port = server.add_insecure_port(address)
        else:
            pair = (self._certificates.key.read_bytes(), certificate.read_bytes())
            roots = self._certificates.ca.read_bytes() if clients else None
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair], roots, clients))
        await server.start()
        self._ends.append(lambda: server.stop(0.1))
        return int(port)
