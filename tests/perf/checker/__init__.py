"""A repository whose models answer only requests that they know, by the digest of every string in them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

MODEL = Path(__file__).parent / "model.py"

# Ensemble -> its inputs.
INPUTS = {
    "embed_text": (("TEXT", 1),),
    "embed_image": (("IMAGE", 1),),
    "rerank": (("QUERY_TEXT", 1), ("IMAGE", -1)),
}
MOST_CANDIDATES = 8


def write_checker(root: Path, known: Iterable[bytes]) -> Path:
    """A retriever `check` that fails every request with a string that is not among `known`."""
    (root / "known").mkdir(parents=True)
    digests = "\n".join(hashlib.sha256(item).hexdigest() for item in known)
    for kind, inputs in INPUTS.items():
        rows = 0 if kind == "rerank" else 4
        _model(root / "repository", f"check_step_{kind}", 'backend: "python"', inputs, rows)
        shutil.copy(MODEL, root / "repository" / f"check_step_{kind}" / "1" / "model.py")
        (root / "repository" / f"check_step_{kind}" / "1" / "known.txt").write_text(digests)
        names = [name for name, _ in inputs]
        steps = [f'model_name: "check_step_{kind}" model_version: -1']
        steps += [f'input_map {{ key: "{name}" value: "{name}" }}' for name in names]
        steps += ['output_map { key: "score" value: "score" }']
        scheduling = f'platform: "ensemble" ensemble_scheduling {{ step [{{ {" ".join(steps)} }}] }}'
        _model(root / "repository", f"check_{kind}", f"{scheduling}\n{_parameters(kind)}", inputs, rows)
    return root / "repository"


def _parameters(kind: str) -> str:
    values = {"fingerprint": "none", "recipe": "none", "precision": "fp32"}
    if kind == "rerank":
        values["max_candidates"] = str(MOST_CANDIDATES)
    return "\n".join(f'parameters {{ key: "{key}" value {{ string_value: "{v}" }} }}' for key, v in values.items())


def _model(root: Path, name: str, kind: str, inputs: tuple[tuple[str, int], ...], rows: int) -> None:
    (root / name / "1").mkdir(parents=True)
    tensors = ", ".join(f'{{ name: "{tensor}" data_type: TYPE_STRING dims: [{size}] }}' for tensor, size in inputs)
    output = 'output [{ name: "score" data_type: TYPE_FP32 dims: [-1] }]'
    text = f'name: "{name}" max_batch_size: {rows} input [{tensors}] {output}\n{kind}\n'
    (root / name / "config.pbtxt").write_text(text)
