"""Every graph of every system becomes a TensorRT-RTX engine, without a GPU, with every attention layer fused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from periscope_export.exporter import Request, export
from periscope_export.graphs.precision import Precision
from periscope_testing.system import System
from periscope_testing.systems import SYSTEMS

SHALLOW = [system for system in SYSTEMS.values() if system.shallow]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("one", SHALLOW, ids=lambda system: system.name)
def test_every_graph_compiles(one: System, precision: Precision, traced_once: None, tmp_path: Path) -> None:
    if reason := one.excluded.get("test_every_graph_compiles"):
        pytest.skip(reason)
    assert one.shallow is not None
    checkpoint = one.shallow(tmp_path / "checkpoint")
    request = Request(
        str(checkpoint),
        one.recipe,
        tmp_path / "made",
        "r",
        engine="tensorrt-rtx",
        precision=precision,
        settings=one.settings,
    )
    plans = sorted(export(request, lambda _: None).glob("*/1/model.plan"))
    assert len(plans) >= len(one.attention)
    for plan in plans:
        assert plan.stat().st_size > 10_000
        said = json.loads((plan.parent / "engine.json").read_text())
        step = plan.parents[1].name.removeprefix("r_")
        assert said["attention_layers"] == one.attention.get(step, 0), step
    assert one.attention.keys() <= {plan.parents[1].name.removeprefix("r_") for plan in plans}


def test_every_recipe_has_a_shallow_row() -> None:
    assert {system.recipe for system in SHALLOW} | {"colqwen2"} == {system.recipe for system in SYSTEMS.values()}
