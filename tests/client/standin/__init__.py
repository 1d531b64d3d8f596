"""A tiny Triton repository that keeps the contract of a served retriever, and a few that break it.

Every ensemble is wired to one Python encoder (`encoder.py`), so the whole repository starts in seconds:
`toy` has late and dense vectors and what similarity maps need, `slim` only late vectors, `flat` only dense; `bare` has
no fingerprint, `unmasked` late vectors without their mask, `split` different weights for text and images,
`unmapped` nothing that maps need.
"""

from __future__ import annotations

import shutil
from pathlib import Path

SOURCES = Path(__file__).parent

ENCODER = """
name: "standin_encoder" backend: "python" max_batch_size: 8
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [1] optional: true },
  { name: "IMAGE" data_type: TYPE_STRING dims: [1] optional: true },
  { name: "ROLE" data_type: TYPE_STRING dims: [1] optional: true }
]
output [
  { name: "late" data_type: TYPE_FP32 dims: [-1, 4] },
  { name: "late_mask" data_type: TYPE_INT32 dims: [-1] },
  { name: "dense" data_type: TYPE_FP32 dims: [4] },
  { name: "token_spans" data_type: TYPE_INT32 dims: [-1, 2] },
  { name: "visual_grid" data_type: TYPE_INT32 dims: [3] }
]
instance_group [{ count: %d kind: KIND_CPU }]
"""

MAXSIM = """
name: "%s_maxsim" backend: "python" max_batch_size: 0
input [
  { name: "query_late" data_type: TYPE_FP32 dims: [-1, -1, 4] },
  { name: "query_mask" data_type: TYPE_INT32 dims: [-1, -1] },
  { name: "document_late" data_type: TYPE_FP32 dims: [-1, -1, 4] },
  { name: "document_mask" data_type: TYPE_INT32 dims: [-1, -1] }
]
output [{ name: "score" data_type: TYPE_FP32 dims: [-1, -1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""

OUTPUTS = {
    "late": ("TYPE_FP32", "[-1, 4]"),
    "late_mask": ("TYPE_INT32", "[-1]"),
    "dense": ("TYPE_FP32", "[4]"),
    "token_spans": ("TYPE_INT32", "[-1, 2]"),
    "visual_grid": ("TYPE_INT32", "[3]"),
}


def ensemble(name: str, item: str, outputs: list[str], fingerprint: str | None) -> str:
    """The configuration of an embedding model around the encoder."""
    output = ", ".join(f'{{ name: "{key}" data_type: {OUTPUTS[key][0]} dims: {OUTPUTS[key][1]} }}' for key in outputs)
    parameters = {"recipe": "standin", "fingerprint": fingerprint}
    return "\n".join(
        [
            f'name: "{name}" platform: "ensemble" max_batch_size: 8',
            f'input [{{ name: "{item}" data_type: TYPE_STRING dims: [1] }},',
            '  { name: "ROLE" data_type: TYPE_STRING dims: [1] optional: true }]',
            f"output [{output}]",
            'ensemble_scheduling { step [{ model_name: "standin_encoder" model_version: -1',
            *(f'  input_map {{ key: "{key}" value: "{key}" }}' for key in (item, "ROLE")),
            *(f'  output_map {{ key: "{key}" value: "{key}" }}' for key in outputs),
            "}] }",
            *(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in parameters.items() if v),
        ]
    )


def write_repository(root: Path, fingerprint: str = "weights-a", only: str | None = None, encoders: int = 4) -> Path:
    """The stand-in repository under `root`, its retrievers carrying `fingerprint`; all of them, or one.

    One of the `encoders` may still sleep for a test that is over, while the next test needs two.
    """
    late, dense = ["late", "late_mask"], ["dense"]
    retrievers = {
        "toy": (late + dense, fingerprint, fingerprint),
        "slim": (late, fingerprint, fingerprint),
        "flat": (dense, fingerprint, fingerprint),
        "bare": (late, None, None),
        "unmasked": (["late"], fingerprint, fingerprint),
        "split": (late, fingerprint, f"not-{fingerprint}"),
        "unmapped": (late, fingerprint, fingerprint),
    }
    models = {"standin_encoder": ENCODER % encoders, "toy_maxsim": MAXSIM % "toy"}
    if only is not None:
        retrievers = {only: retrievers[only]}
    for name, (outputs, text_fingerprint, image_fingerprint) in retrievers.items():
        spans, grid = (["token_spans"], ["visual_grid"]) if name == "toy" else ([], [])
        models[f"{name}_embed_text"] = ensemble(f"{name}_embed_text", "TEXT", outputs + spans, text_fingerprint)
        if name != "slim":  # a retriever of texts alone keeps the contract too
            models[f"{name}_embed_image"] = ensemble(f"{name}_embed_image", "IMAGE", outputs + grid, image_fingerprint)
    for name, config in models.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    shutil.copy(SOURCES / "encoder.py", root / "standin_encoder" / "1" / "model.py")
    shutil.copy(SOURCES / "maxsim.py", root / "toy_maxsim" / "1" / "model.py")
    return root
