"""A refusal names what would pass, and it was measured."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch

from periscope_export.checkpoint.reading import Weights
from periscope_export.exporter import Request, export
from periscope_export.fidelity.gate import FidelityError
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import parse_settings, with_settings
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

# Between what int8 gives this checkpoint, and what bf16 does.
ASKED = {"tolerance.int8.cosine": 0.999, "tolerance.bf16.cosine": 0.999}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of times that each weight is read from the checkpoint."""
    counted, read = Counter[str](), Weights.read

    def counting(weights: Weights, name: str) -> torch.Tensor:
        counted[name] += 1
        return read(weights, name)

    monkeypatch.setattr(Weights, "read", counting)
    return counted


def test_a_refused_int8_names_a_keep_list_and_a_precision(tmp_path: Path, reads: Counter[str]) -> None:
    checkpoint = make_colqwen2(
        tmp_path / "made", Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64), seed=3, adapter=None
    )
    # onnxruntime's sums of int8 are exact on any processor.
    request = Request(
        str(checkpoint), "colqwen2", tmp_path / "out", precision="int8", engine="onnxruntime-tensorrt", settings=ASKED
    )
    lines: list[str] = []
    with pytest.raises(FidelityError) as refused:
        export(request, lines.append)
    said = str(refused.value)
    assert re.search(
        r"the lowest cosine of vectors is 0\.99[78]\d \(allowed: 0\.999\), furthest: token \d+ of the", said
    )
    assert re.search(r"\d through (vision_encoder|language_model)", said)
    assert re.search(r"bf16 would pass, by the towers in torch \(lowest cosine 0\.999\d, scores within", said)
    (settings,) = re.findall(r"int8 would pass with ((?:--set '[^']*' ?)+)", said)
    given = parse_settings(shlex.split(settings)[1::2])
    recipe = with_settings(load_recipe("colqwen2"), given)
    (step,) = {field.split(".")[2] for field in given}
    keep = recipe.quantisation["int8"][step].keep
    # The last that was tried, and the only one that was near enough.
    kept = [line for line in lines if f" of {step} kept: lowest cosine" in line]
    assert f"with {', '.join(keep)} of {step} kept" in kept[-1]
    cosines = [float(re.findall(r"lowest cosine ([\d.]+)", line)[0]) for line in kept]
    assert cosines[-1] >= 0.999 > max([0.0, *cosines[:-1]])
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    # By towers once, whatever they are cast to; the late projection is looked at before, whether it was ever trained.
    assert reads.pop("late_head.projection.weight") == 2
    assert len(reads) > 30
    assert set(reads.values()) == {1}
