"""Two checkpoints in published layouts, exported, served together, and their published implementations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported, exported
from periscope_client import Retriever
from periscope_demo.shipped import shipped_checkpoint
from periscope_serve.server import Server
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.qwen2_vl import Qwen2VLSizes

# The published adapter on its base, small enough to push many items through.
FIRST = Qwen2VLSizes()


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("first")
    return exported(folder, "colqwen2", make_colqwen2(folder / "checkpoint", FIRST, seed=1))


@pytest.fixture(scope="session")
def first_reference(first: Exported) -> ColQwen2Reference:
    return ColQwen2Reference(first.checkpoint)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The demonstration's retriever, which finds what it is asked for; with a dense output."""
    return exported(tmp_path_factory.mktemp("trained"), "trained", shipped_checkpoint(), recipe="colqwen2_dense")


@pytest.fixture(scope="session")
def trained_reference(trained: Exported) -> ColQwen2Reference:
    return ColQwen2Reference(trained.checkpoint)


@pytest.fixture(scope="session")
def server(first: Exported, trained: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "triton.log"
    repositories = [first.repository, trained.repository]
    with Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def retriever(server: Server, first: Exported) -> Iterator[Retriever]:
    with Retriever(server.grpc_url, first.name) as connected:
        yield connected


@pytest.fixture(scope="session")
def triton(server: Server) -> Iterator[InferenceServerClient]:
    """The bare client, for what the project's own client does not do: rows joined by hand, single steps."""
    with InferenceServerClient(server.grpc_url) as connected:
        yield connected
