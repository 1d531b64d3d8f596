"""Every system in the engines that have graphs of their own: served vectors are the published ones within the recipe's
tolerance. The CPU stands for the GPU, and fp16 for the precision that it lacks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from contract.items import INSTRUCTIONS, KINDS, kinds
from contract.served import Served, recipe_of
from e2e.processor import EXACT_INT8, HAS_BF16
from periscope_client import Retriever
from periscope_export.exporter import Request, export
from periscope_export.fidelity.closeness import cosines
from periscope_export.graphs.precision import Precision
from periscope_serve.errors import ServeError
from periscope_serve.server import Server
from periscope_testing.reference import Item
from periscope_testing.systems import SYSTEMS

SHALLOW = {name: system for name, system in SYSTEMS.items() if system.shallow}
# A processor without bf16 computes it in fp32.
LEAST: dict[Precision, float] = {"bf16": 1e-5 if HAS_BF16 else 0, "fp16": 1e-5, "int8": 1e-4}


class Lower(NamedTuple):
    """Systems on one server, in one engine: those whose recipes have a tolerance of the precision."""

    engine: str
    precision: Precision
    served: dict[str, Served]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shallow")
    return {name: system.shallow(folder / name) for name, system in SHALLOW.items() if system.shallow}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("openvino", "bf16"), id="openvino-bf16"),
        pytest.param(
            ("openvino", "int8"),
            id="openvino-int8",
            marks=pytest.mark.skipif(not EXACT_INT8, reason="a CPU without VNNI"),
        ),
        pytest.param(("onnxruntime-cuda", "fp16"), id="onnxruntime-cuda-fp16"),
    ],
)
def lower(
    checkpoints: dict[str, Path],
    traced_once: None,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Lower]:
    engine, precision = request.param
    folder = tmp_path_factory.mktemp(engine)
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
        if precision in recipe_of(system).tolerance
    }
    server = Server(list(repositories.values()), grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log")
    with ExitStack() as running:
        url = running.enter_context(server).grpc_url
        triton = running.enter_context(InferenceServerClient(url))
        yield Lower(
            engine,
            precision,
            {
                name: Served(
                    SHALLOW[name],
                    checkpoints[name],
                    repository,
                    running.enter_context(Retriever(url, name)),
                    triton,
                    server,
                )
                for name, repository in repositories.items()
            },
        )


@pytest.mark.parametrize("name", SHALLOW)
def test_vectors_and_scores_are_near_the_published_ones(lower: Lower, name: str) -> None:
    if reason := SHALLOW[name].excluded.get("test_vectors_and_scores_are_near_the_published_ones"):
        pytest.skip(reason)
    if name not in lower.served:
        pytest.skip(f"recipe {SHALLOW[name].recipe} has no tolerance of {lower.precision}")
    precision, served = lower.precision, lower.served[name]
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


def test_prefixes_are_kept_where_the_engine_keeps_them(lower: Lower) -> None:
    """The last state alone of a causal model is read there; texts that begin differently in one request, too."""
    keeping = []
    for name, served in lower.served.items():
        (path, *_) = [*served.repository.glob("*_language_model"), *served.repository.glob("*_text_encoder")]
        inputs = {tensor.name for tensor in served.triton.get_model_metadata(path.name).inputs}
        assert ("prefix_index" in inputs) == bool(list(served.repository.rglob("prefixes.json")))
        if "prefix_index" in inputs and served.outputs:
            keeping.append(name)
            texts = [Item("revenue"), Item("\n\nrevenue")]
            for row, item in zip(served.rows(texts), texts, strict=True):
                (one, other) = (np.asarray(vectors.dense) for vectors in (row, served.reference.embed(item)))
                assert float(one @ other) >= served.recipe.tolerance[lower.precision].cosine
    assert bool(keeping) == (lower.engine == "openvino")


def test_a_repository_that_lost_its_prefixes_does_not_start(lower: Lower, tmp_path: Path) -> None:
    if (lower.engine, lower.precision) != ("openvino", "bf16"):
        pytest.skip("prefixes are OpenVINO's, and the same in each precision")
    (lost, *_) = (
        (served, file) for served in lower.served.values() for file in served.repository.rglob("prefixes.json")
    )
    served, file = lost
    broken = Path(shutil.copytree(served.repository, tmp_path / served.system.name))
    (broken / file.relative_to(served.repository)).unlink()
    (broken / "fidelity.json").unlink()  # whose list of files would tell first
    with (
        pytest.raises(ServeError, match=r"prefixes\.json and the output prefix_index need each other"),
        Server([broken], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "triton.log"),
    ):
        pass
