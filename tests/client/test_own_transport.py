"""Tests of those who use the client: a transport of their own in the server's place, by public names alone."""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from periscope_client import (
    AsyncRetriever,
    InvalidInput,
    ItemsFailed,
    Retriever,
    ServerUnavailable,
    Transport,
    UnknownModel,
)

GUIDE = Path(__file__).parents[2] / "docs" / "client.md"
VECTORS = {b"revenue by region": [[1.0, 0.0], [0.0, 1.0]], b"page 1": [[0.8, 0.6]], b"page 2": [[0.0, -1.0]]}


class InMemory:
    """The retriever "r": late vectors of texts and images, each by its bytes, and their scores."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.away = 0
        self.closed = False

    async def config(self, model: str) -> dict[str, Any]:
        if model not in ("r_embed_text", "r_embed_image"):
            raise UnknownModel(f"no model {model}")
        return {
            "parameters": {"recipe": {"string_value": "in-memory"}, "fingerprint": {"string_value": "1"}},
            "output": [{"name": "late", "dims": [-1, 2]}, {"name": "late_mask", "dims": [-1]}],
            "ensemble_scheduling": {},
        }

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], request_id: str = ""
    ) -> dict[str, NDArray[Any]]:
        self.requests.append(request_id)
        if self.away:
            self.away -= 1
            raise ServerUnavailable("restarting")
        if model == "r_maxsim":
            tokens_QNTS = np.einsum("qtk,nsk->qnts", inputs["query_late"], inputs["document_late"])
            return {"score": tokens_QNTS.max(axis=3).sum(axis=2)}
        item = inputs["TEXT" if model == "r_embed_text" else "IMAGE"][0, 0]
        if item not in VECTORS:
            raise InvalidInput(f"{item!r} is in no memory")
        late_1TK = np.array([VECTORS[item]], np.float32)
        return {"late": late_1TK, "late_mask": np.ones(late_1TK.shape[:2], np.int32)}

    async def models(self) -> list[str]:
        return ["r_embed_text", "r_embed_image", "r_maxsim"]

    async def close(self) -> None:
        self.closed = True


def test_a_search_without_a_server() -> None:
    transport: Transport = InMemory()
    with Retriever("anything", "r", transport=transport) as retriever:
        assert retriever.info().fingerprint == "1"
        queries = retriever.embed_text(["revenue by region"])
        pages = retriever.embed_image([b"page 1", b"page 2"])
        np.testing.assert_array_equal(pages.late_vectors()[0], np.array([[0.8, 0.6]], np.float32))
        np.testing.assert_allclose(retriever.maxsim(queries, pages), [[1.4, -1.0]], rtol=1e-6)


def test_everything_around_it_is_the_clients() -> None:
    """Names, ids, errors of items, and waiting for a server that is away."""
    fake = InMemory()

    async def search() -> None:
        async with AsyncRetriever("memory", transport=fake) as retriever:  # the only one that it lists
            fake.away = 2
            assert len(await retriever.embed_text(["revenue by region"], request_id="mine")) == 1
            with pytest.raises(ItemsFailed, match="is in no memory"):
                await retriever.embed_text(["profit"])

    asyncio.run(search())
    assert fake.requests == ["mine/0"] * 3 + [""]
    assert fake.closed
    with pytest.raises(UnknownModel, match=r"the server at memory has no retriever 'other'\. It has 'r'"):
        Retriever("memory", "other", transport=fake).info()


def test_a_copy_has_it_too() -> None:
    fake = InMemory()
    with Retriever("memory", "r", transport=fake) as retriever, copy.copy(retriever) as again:
        assert again.info() == retriever.info()


@pytest.mark.parametrize(
    "arguments", [{"protocol": "grpc"}, {"token": "t", "ca": "company.pem"}, {"headers": {}}, {"cert": "a", "key": "b"}]
)
def test_what_says_how_a_server_is_reached_is_refused_beside_it(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"transport takes the server's place, and {', '.join(arguments)} would be"):
        Retriever("memory", "r", transport=InMemory(), **arguments)


def test_the_example_of_the_guide() -> None:
    section = GUIDE.read_text(encoding="utf-8").partition("## Tests without a server")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], str(GUIDE), "exec"), names)
    names["test_my_search"]()
