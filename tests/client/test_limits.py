"""The server's limits of one item reach the client, which holds items against them before they are sent."""

from __future__ import annotations

import pytest

from periscope_client import InvalidInput, Limits, Retriever, UnexpectedAnswer

from .fake import FakeTransport, config


def tell(transport: FakeTransport, **limits: object) -> None:
    """Let the fake server tell its limits."""
    transport.description = config()
    for name, value in limits.items():
        transport.description["parameters"][name] = {"string_value": str(value)}


def test_limits_are_read_from_the_server(transport: FakeTransport) -> None:
    tell(transport, image_bytes=1000, image_pixels=600, text_bytes=10)
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        assert retriever.info().limits == Limits(image_bytes=1000, image_pixels=600, text_bytes=10)


def test_older_repositories_say_nothing(transport: FakeTransport) -> None:
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        assert retriever.info().limits == Limits()
    assert Limits().page_pixels == 64 << 20
    Limits().check_text(1 << 40)
    Limits().check_bytes(1 << 40)
    Limits().check_pixels((1 << 20, 1 << 20))


@pytest.mark.parametrize("value", ["many", "0", "-5"])
def test_a_limit_that_is_no_number(transport: FakeTransport, value: str) -> None:
    tell(transport, image_pixels=value)
    with (
        pytest.raises(UnexpectedAnswer, match="'image_pixels' of the model 'toy_embed_text'"),
        Retriever("a:1", "toy", transport=transport),
    ):
        pass  # pragma: no cover


def test_the_limit_itself_is_allowed() -> None:
    limits = Limits(image_bytes=1000, image_pixels=600, text_bytes=10)
    limits.check_text(10)
    limits.check_bytes(1000)
    limits.check_pixels((30, 20))
    with pytest.raises(InvalidInput, match=r"the text has 11 bytes, above the server's limit of 10. Send a"):
        limits.check_text(11)
    with pytest.raises(InvalidInput, match=r"the image has 1001 bytes, above .* of 1000.*limits.image_bytes="):
        limits.check_bytes(1001)
    with pytest.raises(InvalidInput, match=r"the image has 31 x 20 pixels, above .* of 600.*limits.image_pixels="):
        limits.check_pixels((31, 20))
