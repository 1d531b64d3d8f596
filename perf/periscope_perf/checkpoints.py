"""Random checkpoints of the 2B width, each in the layout of everyone who is to load it, written when it is asked for.

A published model of 28 layers takes minutes a page on two cores; ratios hold at the same widths, so that they are four
layers deep, unless somebody wants the published depth. Weights are stored in bfloat16, so that a peer that computes in
bfloat16 has the very weights of one that computes in float32.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from periscope_perf.vocabulary import tokenizer
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.layout import Layout
from periscope_testing.qwen2_vl import QWEN2_VL_2B, QWEN2_VL_2B_WIDTHS, Qwen2VLSizes
from periscope_testing.qwen3_vl.checkpoint import QWEN3_VL_2B, Qwen3VLSizes, make_qwen3_vl_embedding

Depth = Literal["small", "wide", "full"]
"""A few megabytes; half a gigaparameter, the published width and four layers; as published."""

QWEN2_VL: Mapping[Depth, Qwen2VLSizes] = {
    "small": Qwen2VLSizes(vision_layers=1, language_layers=1, dtype=torch.bfloat16, vocabulary=4096),
    "wide": replace(QWEN2_VL_2B_WIDTHS, dtype=torch.bfloat16),
    "full": QWEN2_VL_2B,
}
QWEN3_VL: Mapping[Depth, Qwen3VLSizes] = {
    "small": Qwen3VLSizes(vision_layers=2, levels=(0,), layers=1, dtype=torch.bfloat16, vocabulary=4096),
    # Vision layers whose states go deeper into the language model: as many as published.
    "wide": replace(QWEN3_VL_2B, vision_layers=4, levels=(0, 1, 2), layers=4, shards=2),
    "full": QWEN3_VL_2B,
}


@dataclass(frozen=True)
class Checkpoints:
    """One model for everyone.

    system: its name; recipe: that of Periscope.
    layouts: a folder and the function that writes it, by the word that peers know a layout by. "published": for
        colpali-engine and `periscope export`; "transformers": for transformers' own class; "vllm": a plain
        vision-language model, for engines that pool by themselves.
    """

    system: str
    recipe: str
    layouts: Mapping[str, tuple[Path, Callable[[Path], object]]]

    def folder(self, layout: str) -> Path:
        """Write a layout, or find it there from before. One that cuts texts otherwise than today's is written anew."""
        place, write = self.layouts[layout]
        if place.is_dir() and (place / "tokenizer.json").read_text(encoding="utf-8") != tokenizer().to_str(pretty=True):
            shutil.rmtree(place)
        if not place.is_dir():
            unfinished = _partial(place)
            write(unfinished)
            unfinished.rename(place)
        return place


def colqwen2(folder: Path, depth: Depth = "wide") -> Checkpoints:
    """ColQwen2 on Qwen2-VL."""
    places = {name: folder / f"colqwen2-{name}" for name in ("published", "transformers", "vllm")}
    sizes = QWEN2_VL[depth]

    def own(place: Path) -> None:
        _colqwen2(place, sizes, "transformers")
        _change(place / "config.json", {"architectures": ["ColQwen2ForRetrieval"]})

    def plain(place: Path) -> None:
        _qwen2_vl(found.folder("published"), place)

    published = partial(_colqwen2, sizes=sizes, layout="engine-old")
    writers: dict[str, Callable[[Path], object]] = {"published": published, "transformers": own, "vllm": plain}
    found = Checkpoints("colqwen2", "colqwen2", {name: (places[name], writers[name]) for name in places})
    return found


def qwen3_vl_embedding(folder: Path, depth: Depth = "wide") -> Checkpoints:
    """Qwen3-VL-Embedding. One layout fits all."""
    place = folder / "qwen3-vl-embedding"
    names = ("published", "transformers", "vllm")
    layout = (place, partial(make_qwen3_vl_embedding, sizes=QWEN3_VL[depth], tokenizer=tokenizer()))
    return Checkpoints("qwen3_vl_embedding", "qwen3_vl_embedding", dict.fromkeys(names, layout))


def _colqwen2(place: Path, sizes: Qwen2VLSizes, layout: Layout) -> None:
    make_colqwen2(place, sizes, layout=layout, adapter=None, tokenizer=tokenizer())


def _partial(folder: Path) -> Path:
    """Return where a checkpoint is written until it is complete: an interrupted run leaves none that looks so."""
    place = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _qwen2_vl(colqwen2: Path, folder: Path) -> None:
    """Write the Qwen2-VL that a ColQwen2 stands on: without the projection, under its own names."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(colqwen2 / name, folder / name)
    changes: dict[str, dict[str, Any]] = {
        "config.json": {"architectures": ["Qwen2VLForConditionalGeneration"]},
        "preprocessor_config.json": {"processor_class": "Qwen2VLProcessor"},
    }
    for name, change in changes.items():
        shutil.copyfile(colqwen2 / name, folder / name)
        _change(folder / name, change)
    for file in sorted(colqwen2.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            kept = {name: stored.get_tensor(name) for name in stored.keys() if "custom_text_proj" not in name}  # noqa: SIM118
        save_file(kept, folder / file.name, metadata={"format": "pt"})
    index = json.loads((colqwen2 / "model.safetensors.index.json").read_text(encoding="utf-8"))
    weights = {name: file for name, file in index["weight_map"].items() if "custom_text_proj" not in name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": weights}), encoding="utf-8")


def _change(file: Path, change: dict[str, Any]) -> None:
    data = json.loads(file.read_text(encoding="utf-8")) | change
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
