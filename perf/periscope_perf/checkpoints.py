"""Random checkpoints of the 2B width, four layers deep, each written in the layout of everyone who is to load it.

A published model of 28 layers takes minutes a page on two cores; ratios hold at the same widths. Weights are stored in
bfloat16, so that a peer that computes in bfloat16 has the very weights of one that computes in float32.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from periscope_demo.checkpoint import make_checkpoint
from periscope_demo.checkpoints.qwen3_vl import QWEN3_VL_2B, Qwen3VLSizes, make_qwen3_vl_embedding
from periscope_demo.layout import QWEN2_VL_2B_WIDTHS, Layout, Sizes

# Half a gigaparameter each. Vision layers whose states go deeper into the language model: as many as published.
WIDE_QWEN2_VL = replace(QWEN2_VL_2B_WIDTHS, dtype=torch.bfloat16)
WIDE_QWEN3_VL = replace(QWEN3_VL_2B, vision_layers=4, levels=(0, 1, 2), layers=4, shards=2)
SMALL_QWEN2_VL = Sizes(dtype=torch.bfloat16)
SMALL_QWEN3_VL = Qwen3VLSizes(dtype=torch.bfloat16)


@dataclass(frozen=True)
class Checkpoints:
    """One model for everyone: its recipe, and the folder that each reads, by the word that peers know it by.

    "published": what colpali-engine and `periscope export` read. "transformers": what transformers' own class reads.
    "vllm": a plain vision-language model, for engines that pool by themselves.
    """

    system: str
    recipe: str
    folders: Mapping[str, Path]


def colqwen2(folder: Path, small: bool = False) -> Checkpoints:
    """Write ColQwen2 on Qwen2-VL, or find it there from before."""
    sizes = SMALL_QWEN2_VL if small else WIDE_QWEN2_VL
    layouts: dict[str, Layout] = {"published": "engine-old", "transformers": "transformers"}
    folders = {name: folder / f"colqwen2-{name}" for name in (*layouts, "vllm")}
    for name, layout in layouts.items():
        if not folders[name].is_dir():
            partial = make_checkpoint(_partial(folders[name]), sizes, layout=layout, adapter=None)
            if name == "transformers":
                _change(partial / "config.json", {"architectures": ["ColQwen2ForRetrieval"]})
            partial.rename(folders[name])
    if not folders["vllm"].is_dir():
        _qwen2_vl(folders["published"], _partial(folders["vllm"])).rename(folders["vllm"])
    return Checkpoints("colqwen2", "colqwen2", folders)


def qwen3_vl_embedding(folder: Path, small: bool = False) -> Checkpoints:
    """Write Qwen3-VL-Embedding, or find it there from before. One layout fits all."""
    place = folder / "qwen3-vl-embedding"
    if not place.is_dir():
        sizes = SMALL_QWEN3_VL if small else WIDE_QWEN3_VL
        make_qwen3_vl_embedding(_partial(place), sizes).rename(place)
    names = ("published", "transformers", "vllm")
    return Checkpoints("qwen3_vl_embedding", "qwen3_vl_embedding", dict.fromkeys(names, place))


def _partial(folder: Path) -> Path:
    """Return where a checkpoint is written until it is complete: an interrupted run leaves none that looks so."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    return partial


def _qwen2_vl(colqwen2: Path, folder: Path) -> Path:
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
    return folder


def _change(file: Path, change: dict[str, Any]) -> None:
    data = json.loads(file.read_text(encoding="utf-8")) | change
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
