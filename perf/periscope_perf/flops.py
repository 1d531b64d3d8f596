"""Floating point operations of one page: what its matrix products and its attention ask for, counted by torch.

The towers run on tensors without content, on the lengths of the page itself: what padding adds is no work that anyone
asked for. A product of [A, B] and [B, C] counts 2ABC; causal attention counts as if every token saw all.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from periscope_export.published import open_retriever
from periscope_export.repository.writing import write_preparation
from periscope_runtime.collate import collate
from periscope_runtime.completion import completed
from periscope_runtime.paths import IMAGE
from periscope_runtime.prepare import Preparer
from periscope_runtime.recipe import Buckets


def page_flops(checkpoint: Path, recipe: str, page: bytes) -> int:
    """Count the operations from patches to vectors of a page, given as the bytes of an image file."""
    retriever = open_retriever(str(checkpoint), recipe)
    with tempfile.TemporaryDirectory() as folder:
        preparer = Preparer(write_preparation(Path(folder), "flops", retriever.recipe, retriever.tokenizer)["image"])
    row = preparer.image(page)
    assert row.patches is not None
    buckets = Buckets(patches=1, page_tokens=1, text_tokens=1)
    wanted = {spec.name: spec.wanted for step in retriever.steps for spec in step.inputs}
    arrays = completed(collate([row], buckets), wanted, retriever.width)
    tensors = {name: torch.from_numpy(array).to("meta") for name, array in arrays.items()}
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for step in retriever.steps:
            if IMAGE not in step.paths:
                continue
            with torch.device("meta"):
                module = step.build().to("meta")
            outputs = module(*(tensors[spec.name] for spec in step.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            tensors.update(zip((spec.name for spec in step.outputs), outputs, strict=True))
    return int(counter.get_total_flops())
