"""Every system in the engines that have graphs of their own: served vectors are the published ones within the recipe's
tolerance. The CPU stands for the GPU, and fp16 for the precision that it lacks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from contract.items import INSTRUCTIONS, KINDS, kinds
from contract.served import Served
from e2e.processor import HAS_BF16
from periscope_client import Retriever
from periscope_export.exporter import Request, export
from periscope_export.fidelity.closeness import cosines
from periscope_export.graphs.precision import Precision
from periscope_serve.errors import ServeError
from periscope_serve.server import Server
from periscope_testing.reference import Item
from periscope_testing.systems import SYSTEMS

PRECISIONS: dict[str, Precision] = {"openvino": "bf16", "onnxruntime-cuda": "fp16"}
SHALLOW = {name: system for name, system in SYSTEMS.items() if system.shallow}
# A processor without bf16 computes it in fp32.
LEAST = {"bf16": 1e-5 if HAS_BF16 else 0, "fp16": 1e-5}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shallow")
    return {name: system.shallow(folder / name) for name, system in SHALLOW.items() if system.shallow}


@pytest.fixture(scope="module", params=PRECISIONS)
def lower(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Precision, dict[str, Served]]]:
    """All systems on one server, in one engine."""
    folder, engine, precision = tmp_path_factory.mktemp(request.param), request.param, PRECISIONS[request.param]
    repositories = {
        name: export(
            Request(
                str(checkpoints[name]),
                system.recipe,
                folder / name,
                name=name,
                engine=engine,
                precision=precision,
                settings=system.settings,
            ),
            lambda _: None,
        )
        for name, system in SHALLOW.items()
    }
    server = Server(list(repositories.values()), grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log")
    with ExitStack() as running:
        url = running.enter_context(server).grpc_url
        triton = running.enter_context(InferenceServerClient(url))
        yield (
            precision,
            {
                name: Served(
                    system,
                    checkpoints[name],
                    repositories[name],
                    running.enter_context(Retriever(url, name)),
                    triton,
                    server,
                )
                for name, system in SHALLOW.items()
            },
        )


@pytest.mark.parametrize("name", SHALLOW)
def test_vectors_and_scores_are_near_the_published_ones(lower: tuple[Precision, dict[str, Served]], name: str) -> None:
    precision, served = lower[0], lower[1][name]
    if reason := served.system.excluded.get("test_vectors_and_scores_are_near_the_published_ones"):
        pytest.skip(reason)
    tolerance = served.recipe.tolerance[precision]
    if not served.outputs:
        query, documents = KINDS["text"][0], [KINDS["image"][0], KINDS["text"][1]]
        files = [{"text": one.text} if one.image is None else {"image": one.image} for one in documents]
        found = served.retriever.rerank(query.text or "", files).scores
        difference = np.abs(found - served.reference.scores(query, documents)).max()
        assert LEAST[precision] <= difference <= tolerance.scores
        return
    items = [item for one in kinds(served.recipe) for item in one[:2]]
    if served.recipe.preparation.instruction:
        # OpenVINO's graphs keep the prefixes that prompts share, one for each instruction with a name; this has none.
        items.append(Item("revenue", instruction=INSTRUCTIONS[0]))
    pairs = [
        (np.atleast_2d(one), np.atleast_2d(other))
        for item in items
        for one, other in zip(served.embed(item), served.reference.embed(item), strict=True)
        if one is not None and other is not None
    ]
    close = np.concatenate([cosines(one, other) for one, other in pairs])
    assert close.min() >= tolerance.cosine
    assert close.mean() >= tolerance.mean_cosine
    assert max(np.abs(one - other).max() for one, other in pairs) > LEAST[precision]


def test_prefixes_are_kept_where_the_engine_keeps_them(lower: tuple[Precision, dict[str, Served]]) -> None:
    """The last state alone of a causal model is read there; texts that begin differently in one request, too."""
    precision, systems = lower
    keeping = []
    for name, served in systems.items():
        (path, *_) = [*served.repository.glob("*_language_model"), *served.repository.glob("*_text_encoder")]
        inputs = {tensor.name for tensor in served.triton.get_model_metadata(path.name).inputs}
        assert ("prefix_index" in inputs) == bool(list(served.repository.rglob("prefixes.json")))
        if "prefix_index" in inputs and served.outputs:
            keeping.append(name)
            texts = [Item("revenue"), Item("\n\nrevenue")]
            for row, item in zip(served.rows(texts), texts, strict=True):
                (one, other) = (np.asarray(vectors.dense) for vectors in (row, served.reference.embed(item)))
                assert float(one @ other) >= served.recipe.tolerance[precision].cosine
    assert bool(keeping) == (precision == "bf16")


def test_a_repository_that_lost_its_prefixes_does_not_start(
    lower: tuple[Precision, dict[str, Served]], tmp_path: Path
) -> None:
    for name, served in lower[1].items():
        if files := sorted(served.repository.rglob("prefixes.json")):
            broken = Path(shutil.copytree(served.repository, tmp_path / name))
            (broken / files[0].relative_to(served.repository)).unlink()
            (broken / "fidelity.json").unlink()  # whose list of files would tell first
            with (
                pytest.raises(ServeError, match=r"prefixes\.json and the output prefix_index need each other"),
                Server([broken], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "triton.log"),
            ):
                pass
            return
