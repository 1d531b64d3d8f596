"""A retriever behind a gateway: through TLS, with a token, under a path; and what goes wrong on the way there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from periscope_client import (
    AccessDenied,
    InvalidInput,
    ItemsFailed,
    RequestError,
    Retriever,
    ServerUnavailable,
    UnexpectedAnswer,
)
from periscope_client._endpoint import Protocol
from periscope_client.console import main

from .conftest import Standin
from .gateway import PREFIX, TOKEN, Certificates, Gateway, Seen, make_certificates

SCHEMES = {"grpc": "grpcs", "http": "https"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def gateway(certificates: Certificates, standin: Standin) -> Iterator[Gateway]:
    server = standin.server()
    gateway = Gateway(certificates, server.grpc_url, server.http_url)
    yield gateway
    gateway.stop()


@pytest.fixture
def behind(gateway: Gateway, certificates: Certificates, protocol: Protocol) -> tuple[str, Seen]:
    """The URL of a retriever behind TLS, and what is seen there."""
    port, seen = gateway.listen(protocol, certificates.here)
    return f"{SCHEMES[protocol]}://localhost:{port}{PREFIX if protocol == 'http' else ''}", seen


def failure(url: str, **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught, Retriever(url, "toy", wait=0, timeout=10, **options):
        pass  # pragma: no cover
    return caught.value


def test_everything_passes_through(
    behind: tuple[str, Seen], certificates: Certificates, retriever: Retriever, tmp_path: Path
) -> None:
    """The same vectors as without a gateway; headers and token come with every request."""
    url, seen = behind
    page = Image.effect_noise((300, 200), 50)  # larger than a frame of HTTP/2
    with Retriever(url, "toy", token=TOKEN, headers={"X-Team": "blue"}, ca=certificates.ca) as there:
        for method, items in (("embed_text", ["a", "b"]), ("embed_image", [page])):
            here, through = (getattr(one, method)(items) for one in (retriever, there))
            assert np.array_equal(here.dense_vectors(), through.dense_vectors())
            assert here.fingerprint == through.fingerprint
        assert np.array_equal(there.maxsim(through, through), retriever.maxsim(through, through))
        with pytest.raises(ItemsFailed, match="preprocess: no"):
            there.embed_text(["refuse: no"])
    assert seen.teams == {"blue"}
    assert seen.ids == [""] * len(seen.ids)


def test_request_ids(behind: tuple[str, Seen], certificates: Certificates) -> None:
    url, seen = behind
    with Retriever(url, "toy", token=TOKEN, ca=certificates.ca) as retriever:
        pages = retriever.embed_text(["a", "b", "c"], request_id="job-7")
        assert sorted(seen.ids) == ["job-7/0", "job-7/1", "job-7/2"]
        retriever.maxsim(pages, pages, request_id="job-8")
        retriever.similarity_maps("a b", Image.new("RGB", (30, 10)), request_id="job-9")
        assert seen.ids[3:] == ["job-8/0", "job-9/query", "job-9/page"]
        for text, message in (("refuse: no", "preprocess: no"), ("fault", "the graph fell over")):
            failed = retriever.embed_text(["a", text], on_error="keep", request_id="job-10").errors[1]
            assert failed.request_id == "job-10/1"
            assert message in str(failed)
            assert str(failed).endswith("(request job-10/1)")
            assert "request id" not in failed.message
        with pytest.raises(ItemsFailed) as caught:
            retriever.embed_text(["refuse: no", "refuse: no"], request_id="job-11")
        assert str(caught.value).count("preprocess: no") == 1, "one reason is said once, whatever the ids"
        for wrong in ("two words", "", "a]"):
            with pytest.raises(ValueError, match="request_id is a word of letters"):
                retriever.embed_text(["a"], request_id=wrong)
    with Retriever(url, "rich", token=TOKEN, ca=certificates.ca) as retriever:
        seen.ids.clear()
        ranking = retriever.rerank("a", ["b", "c", "d", "refuse: no"], request_id="job-12")
        assert sorted(seen.ids) == ["job-12/0", "job-12/3"]
        assert {place: error.request_id for place, error in ranking.errors.items()} == {3: "job-12/3"}


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_token_that_the_gateway_does_not_know(
    token: str | None, behind: tuple[str, Seen], certificates: Certificates
) -> None:
    """It is refused once, and not asked again: no time makes a token right."""
    url, seen = behind
    with pytest.raises(AccessDenied, match=r"(Jwt is missing|status 401).*\(token, headers\)") as caught:
        Retriever(url, "toy", token=token, ca=certificates.ca, wait=20).info()
    assert token is None or token not in str(caught.value)
    assert "<html>" not in str(caught.value)
    assert seen.calls <= 4, "one request for each model that there may be"


def test_certificates(gateway: Gateway, certificates: Certificates, protocol: Protocol) -> None:
    scheme = SCHEMES[protocol]
    path = PREFIX if protocol == "http" else ""
    here, elsewhere, clients = (
        gateway.listen(protocol, certificate, clients=asked)[0]
        for certificate, asked in (
            (certificates.here, False),
            (certificates.elsewhere, False),
            (certificates.here, True),
        )
    )
    trusted: dict[str, Any] = {"token": TOKEN, "ca": certificates.ca}

    for ca in (None, certificates.stranger):
        error = failure(f"{scheme}://localhost:{here}{path}", ca=ca)
        assert type(error) is UnexpectedAnswer, error
        assert f"the certificate of {scheme}://localhost:{here}{path} is not trusted" in error.message
        assert "Give the certificate of the authority that signed it (ca)" in error.message
    error = failure(f"{scheme}://localhost:{elsewhere}{path}", **trusted)
    assert type(error) is UnexpectedAnswer, error
    assert "is for another name. Call the server by the name in its certificate" in error.message

    error = failure(f"{scheme}://localhost:{clients}{path}", **trusted)
    assert "certificate (cert, key)" in error.message or "certificate of the client's" in error.message
    own: dict[str, Any] = {"cert": certificates.here, "key": certificates.key}
    with Retriever(f"{scheme}://localhost:{clients}{path}", "toy", **trusted, **own) as retriever:
        assert len(retriever.embed_text(["a"])) == 1
    with Retriever(f"{scheme}://127.0.0.1:{here}{path}", "toy", **trusted) as retriever:
        assert len(retriever.embed_text(["a"])) == 1


def test_tls_where_there_is_none_and_the_other_way_round(
    url: str, behind: tuple[str, Seen], certificates: Certificates, protocol: Protocol
) -> None:
    scheme = SCHEMES[protocol]
    error = failure(f"{scheme}://{url}", ca=certificates.ca)
    assert type(error) is (UnexpectedAnswer if protocol == "grpc" else ServerUnavailable), error
    assert "over TLS" in error.message or "does it speak TLS there?" in error.message
    error = failure(behind[0].replace("s://", "://"))
    assert isinstance(error, ServerUnavailable), error
    assert f"If it speaks TLS, write {scheme}://" in error.message


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/moved", UnexpectedAnswer, r"redirects to /team/a/v2/\S+/config \(status 307\), which is not followed"),
        ("/nowhere", UnexpectedAnswer, r"not Triton's HTTP port \(status 404\). Is the path before /v2 right"),
        ("/status/403", AccessDenied, "it refuses what it was given"),
        ("/status/413", InvalidInput, "no request as large as this"),
        ("/status/429", ServerUnavailable, "too many requests"),
        ("/status/503", ServerUnavailable, "does not reach the server behind it"),
    ],
)
def test_what_a_gateway_says_itself(
    path: str, kind: type[RequestError], message: str, gateway: Gateway, certificates: Certificates
) -> None:
    port, _ = gateway.listen("http", certificates.here)
    options: dict[str, Any] = {"token": TOKEN, "ca": certificates.ca}
    with pytest.raises(kind, match=message), Retriever(f"https://localhost:{port}{path}", "toy", wait=0, **options):
        pass  # pragma: no cover


def test_every_server_of_a_name_is_called(gateway: Gateway) -> None:
    """As `dns:///name:port` is resolved to them; the others go on when one is gone."""
    ports, seen = zip(*(gateway.listen("grpc") for _ in range(2)), strict=True)
    with Retriever(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", "toy", timeout=20) as retriever:
        assert len(retriever.embed_text(["a"] * 20)) == 20
    assert [len(one.ids) > 5 for one in seen] == [True, True]
    with Retriever(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:1", "toy", timeout=20) as retriever:
        assert len(retriever.embed_text(["a"] * 5)) == 5
    with Retriever(f"dns:///localhost:{ports[0]}", "toy", timeout=20) as retriever:
        assert len(retriever.embed_text(["a"])) == 1


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_ipv6(gateway: Gateway, certificates: Certificates, protocol: Protocol) -> None:
    port, _ = gateway.listen(protocol, certificates.here, host="::1")
    url = f"{SCHEMES[protocol]}://[::1]:{port}{PREFIX if protocol == 'http' else ''}"
    with Retriever(url, "toy", token=TOKEN, ca=certificates.ca) as retriever:
        assert len(retriever.embed_text(["a"])) == 1


def test_commands(
    behind: tuple[str, Seen],
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Options and the environment say where the server is; a token only ever comes from a file or the environment."""
    url, seen = behind
    embed = ["embed", "--text", "a", "--model", "toy", "--output", str(tmp_path / "vectors.npz"), "--wait", "0"]
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    options = ["--url", url, "--ca", str(certificates.ca), "--token-file", str(token_file), "--header", "X-Team: red"]
    assert main([*embed, *options]) == 0
    assert seen.teams == {"red"}

    monkeypatch.setenv("PERISCOPE_URL", url)
    monkeypatch.setenv("PERISCOPE_CA", str(certificates.ca))
    monkeypatch.setenv("PERISCOPE_TOKEN", "wrong")
    assert main([*embed, "--token-file", str(token_file)]) == 0
    capsys.readouterr()
    assert main(embed) == 1
    err = capsys.readouterr().err
    assert err.startswith("periscope embed: ")
    assert "(token, headers)" in err
    assert "wrong" not in err
    monkeypatch.setenv("PERISCOPE_TOKEN", TOKEN)
    assert main(embed) == 0

    for wrong, message in (
        (["--cert", "none.pem"], "cert is a file in PEM; 'none.pem' cannot be read"),
        (["--protocol", "http" if url.startswith("grpc") else "grpc"], "contradicts"),
    ):
        with pytest.raises(SystemExit) as caught:
            main([*embed, *wrong])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*embed, "--url", "grpcs://user:secret@host"])
    assert "secret" not in capsys.readouterr().err
