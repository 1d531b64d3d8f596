"""The memory that a video takes grows with its frames, and not with the square of all of its patches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.qwen3_vl_rows import build
from periscope_export.graphs.graph import export_graph
from periscope_export.graphs.precision import at
from periscope_export.models.steps import TensorSpec, split_axis
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory counters of Linux")

HEADS = 4
SIZES = Qwen3VLSizes(vision_layers=1, vision_heads=HEADS, levels=(0,), layers=1)
# Pairs of frames, patches of each. At the limits of the released code: 32 pairs of 960 patches.
PAIRS, PATCHES = 64, 256
# In a process of its own: what this one has used before hides what a run needs.
MEASURE = """
import json, pathlib, re, sys
import numpy, onnxruntime

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
types = {"tensor(uint8)": numpy.uint8, "tensor(int32)": numpy.int32}
for shapes in json.loads(sys.argv[2]):
    before = peak()
    session.run(None, {one.name: numpy.ones(shapes[one.name], types[one.type]) for one in session.get_inputs()})
    print(peak() - before)
"""


def shape(spec: TensorSpec, items: int, images: int, patches: int) -> list[int]:
    free = {"B": items, "G": images, "P": patches // 4, "V": images * patches // 4}

    def length(axis: int | str) -> int:
        if isinstance(axis, int):
            return axis
        factor, letter = split_axis(axis)
        return factor * free[letter]

    return [length(axis) for axis in spec.axes]


def test_frames_cost_no_square_of_all_patches(tmp_path: Path) -> None:
    built = build(tmp_path / "checkpoint", SIZES)
    step = at(built.vision_step, "fp32")
    example = {spec.name: np.ones(shape(spec, 2, 2, 8)) for spec in step.inputs}
    graph = export_graph(step, built.vision, example, tmp_path / "graph")
    # The last is one image of half as many patches: what this measure sees where there is a square.
    runs = [(1, 8), (PAIRS, PATCHES), (1, PAIRS * PATCHES // 2)]
    shapes = [{spec.name: shape(spec, 1, *run) for spec in step.inputs} for run in runs]
    command = [sys.executable, "-c", MEASURE, str(graph), json.dumps(shapes)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    _, video, image = map(int, found.stdout.split())
    scores = HEADS * (PAIRS * PATCHES) ** 2 * 4
    assert video < scores / 8
    assert video + image > scores / 4
