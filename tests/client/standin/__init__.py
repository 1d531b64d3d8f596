"""A tiny Triton repository that keeps the contract of a served retriever, and a few that break it.

Every ensemble is wired to one Python encoder (`encoder.py`) or reranker (`rerank.py`), so the whole repository starts
in seconds: `toy` has late and dense vectors and what similarity maps need, `slim` only late vectors, `flat` only dense;
`rich` everything that a retriever may have, `judge` nothing but reranking of texts; `bare` has no fingerprint,
`unmasked` late vectors without their mask, `split` different weights for text and images, `unmapped` nothing that maps
need.
"""

from __future__ import annotations

import shutil
from pathlib import Path

SOURCES = Path(__file__).parent

Tensors = dict[str, tuple[str, str]]

ITEMS: Tensors = {
    "TEXT": ("TYPE_STRING", "[1]"),
    "IMAGE": ("TYPE_STRING", "[1]"),
    "VIDEO": ("TYPE_STRING", "[-1]"),
}
ROLE: Tensors = {"ROLE": ("TYPE_STRING", "[1]")}
INSTRUCTIONS: Tensors = {"INSTRUCTION": ("TYPE_STRING", "[1]"), "TASK": ("TYPE_STRING", "[1]")}
DIMENSIONS: Tensors = {"DIMENSIONS": ("TYPE_INT32", "[1]")}
LATE: Tensors = {"late": ("TYPE_FP32", "[-1, 4]"), "late_mask": ("TYPE_INT32", "[-1]")}
DENSE: Tensors = {"dense": ("TYPE_FP32", "[4]")}
ANY_DENSE: Tensors = {"dense": ("TYPE_FP32", "[-1]")}
SPANS: Tensors = {"token_spans": ("TYPE_INT32", "[-1, 2]")}
GRID: Tensors = {"visual_grid": ("TYPE_INT32", "[3]")}

MAXSIM: tuple[Tensors, Tensors] = (
    {
        "query_late": ("TYPE_FP32", "[-1, -1, 4]"),
        "query_mask": ("TYPE_INT32", "[-1, -1]"),
        "document_late": ("TYPE_FP32", "[-1, -1, 4]"),
        "document_mask": ("TYPE_INT32", "[-1, -1]"),
    },
    {"score": ("TYPE_FP32", "[-1, -1]")},
)

RERANK_TEXTS: Tensors = {"QUERY_TEXT": ("TYPE_STRING", "[1]"), "TEXT": ("TYPE_STRING", "[-1]")}
RERANK_ALL: Tensors = {
    **RERANK_TEXTS,
    "QUERY_IMAGE": ("TYPE_STRING", "[1]"),
    "QUERY_VIDEO": ("TYPE_STRING", "[-1]"),
    "IMAGE": ("TYPE_STRING", "[-1]"),
    "VIDEO": ("TYPE_STRING", "[-1]"),
    "VIDEO_FRAMES": ("TYPE_INT32", "[-1]"),
    **INSTRUCTIONS,
}
SCORES: Tensors = {"score": ("TYPE_FP32", "[-1, 1]"), "status": ("TYPE_STRING", "[-1]")}

MOST_CANDIDATES = {"rich": 3, "judge": 2}


def tensors(side: str, listed: Tensors, required: tuple[str, ...]) -> str:
    """The inputs or the outputs of a configuration; inputs are optional unless they are required."""
    lines = [
        f'{{ name: "{name}" data_type: {kind} dims: {dims}'
        + (" optional: true }" if side == "input" and name not in required else " }")
        for name, (kind, dims) in listed.items()
    ]
    return f"{side} [{', '.join(lines)}]"


def python_model(
    name: str, inputs: Tensors, outputs: Tensors, count: int, rows: int = 0, required: tuple[str, ...] = ()
) -> str:
    """The configuration of one of the Python models here."""
    return "\n".join(
        [
            f'name: "{name}" backend: "python" max_batch_size: {rows}',
            tensors("input", inputs, required),
            tensors("output", outputs, ()),
            f"instance_group [{{ count: {count} kind: KIND_CPU }}]",
        ]
    )


def ensemble(
    name: str,
    step: str,
    inputs: Tensors,
    outputs: Tensors,
    parameters: dict[str, str | None],
    rows: int = 8,
    required: tuple[str, ...] = (),
) -> str:
    """The configuration of a model that callers use, around one of the Python models."""
    return "\n".join(
        [
            f'name: "{name}" platform: "ensemble" max_batch_size: {rows}',
            tensors("input", inputs, required),
            tensors("output", outputs, ()),
            f'ensemble_scheduling {{ step [{{ model_name: "{step}" model_version: -1',
            *(f'  input_map {{ key: "{key}" value: "{key}" }}' for key in inputs),
            *(f'  output_map {{ key: "{key}" value: "{key}" }}' for key in outputs),
            "}] }",
            *parameter_lines(parameters),
        ]
    )


def parameter_lines(parameters: dict[str, str | None]) -> list[str]:
    return [f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in parameters.items() if v]


def embedding(name: str, item: str, outputs: Tensors, fingerprint: str | None) -> str:
    """An embedding model of texts or images and nothing else."""
    parameters = {"recipe": "standin", "fingerprint": fingerprint}
    return ensemble(name, "standin_encoder", {item: ITEMS[item], **ROLE}, outputs, parameters, required=(item,))


def rich_models(fingerprint: str) -> dict[str, str]:
    """The three embedding models of `rich`: instructions, tasks, a text beside images and videos, dense vectors cut."""
    parameters: dict[str, str | None] = {"recipe": "standin", "fingerprint": fingerprint}
    parameters |= {"dense_width": "4", "dense_smallest": "2"}
    models = {}
    for item in ITEMS:
        name = f"rich_embed_{item.lower()}"
        inputs = {item: ITEMS[item], "TEXT": ITEMS["TEXT"], **ROLE, **INSTRUCTIONS, **DIMENSIONS}
        rows = 1 if item == "VIDEO" else 8
        models[name] = ensemble(
            name, "standin_encoder", inputs, LATE | ANY_DENSE, parameters, rows=rows, required=(item,)
        )
    return models


def rerank_models(retriever: str, inputs: Tensors, fingerprint: str) -> dict[str, str]:
    """The reranking model of a retriever, and the Python model behind it, which knows its limit."""
    name, step = f"{retriever}_rerank", f"{retriever}_preprocess_rerank"  # as the export calls it
    most: dict[str, str | None] = {"max_candidates": str(MOST_CANDIDATES[retriever])}
    parameters = {"recipe": "standin", "fingerprint": fingerprint, **most}
    behind = "\n".join([python_model(step, inputs, SCORES, count=1), *parameter_lines(most)])
    return {name: ensemble(name, step, inputs, SCORES, parameters, rows=0), step: behind}


def write_repository(root: Path, fingerprint: str = "weights-a", only: str | None = None, encoders: int = 4) -> Path:
    """The stand-in repository under `root`, its retrievers carrying `fingerprint`; all of them, or one of the plain.

    One of the `encoders` may still sleep for a test that is over, while the next test needs two.
    """
    retrievers: dict[str, tuple[Tensors, str | None, str | None]] = {
        "toy": (LATE | DENSE, fingerprint, fingerprint),
        "slim": (LATE, fingerprint, fingerprint),
        "flat": (DENSE, fingerprint, fingerprint),
        "bare": (LATE, None, None),
        "unmasked": ({"late": LATE["late"]}, fingerprint, fingerprint),
        "split": (LATE, fingerprint, f"not-{fingerprint}"),
        "unmapped": (LATE, fingerprint, fingerprint),
    }
    models = {
        "standin_encoder": python_model(
            "standin_encoder",
            {**ITEMS, **ROLE, **INSTRUCTIONS, **DIMENSIONS},
            {**LATE, **ANY_DENSE, **SPANS, **GRID},
            count=encoders,
            rows=8,
        ),
        "toy_maxsim": python_model("toy_maxsim", *MAXSIM, count=1, required=tuple(MAXSIM[0])),
    }
    if only is not None:
        retrievers = {only: retrievers[only]}
    else:
        models |= rich_models(fingerprint)
        models |= rerank_models("rich", RERANK_ALL, fingerprint)
        models |= rerank_models("judge", RERANK_TEXTS, fingerprint)
    for name, (outputs, text_fingerprint, image_fingerprint) in retrievers.items():
        spans, grid = (SPANS, GRID) if name == "toy" else ({}, {})
        models[f"{name}_embed_text"] = embedding(f"{name}_embed_text", "TEXT", outputs | spans, text_fingerprint)
        if name != "slim":  # a retriever of texts alone keeps the contract too
            models[f"{name}_embed_image"] = embedding(f"{name}_embed_image", "IMAGE", outputs | grid, image_fingerprint)
    for name, config in models.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
        if "ensemble_scheduling" not in config:
            source = next(kind for kind in ("encoder", "rerank", "maxsim") if kind in name)
            shutil.copy(SOURCES / f"{source}.py", root / name / "1" / "model.py")
            shutil.copy(SOURCES / "shared.py", root / name / "1" / "shared.py")
    return root
