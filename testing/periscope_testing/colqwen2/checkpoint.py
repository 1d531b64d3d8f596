"""Random checkpoints in every published layout of ColQwen2.

Head widths are the published ones (80 in the vision tower, 128 in the language model) and everything else is small.
Weights, norms and biases are all random, so that nothing that an implementation forgets can hide behind a zero or a
one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from periscope_testing.adapters import random_adapter
from periscope_testing.colqwen2.layout import (
    LORA_TARGETS,
    PROCESSORS,
    Layout,
    config_of,
    published_shapes,
    renamed,
    write_adapter,
    write_model,
)
from periscope_testing.files import write_json
from periscope_testing.qwen2_vl import (
    QWEN2_VL_2B,
    Form,
    Qwen2VLSizes,
    in_form,
    mean_of,
    random_weights,
    write_processor,
)
from periscope_testing.sentence_transformers_files import MEAN, NORMALIZE, dense, write
from periscope_testing.shards import write_shards
from periscope_testing.tokenizers.qwen2 import make_tokenizer


def make_colqwen2(
    folder: Path,
    sizes: Qwen2VLSizes | None = None,
    *,
    seed: int = 0,
    layout: Layout = "engine-old",
    adapter: Literal["lora", "dora"] | None = "lora",
    form: Form = "flat",
    tokenizer: Tokenizer | None = None,
    config_of: Callable[[Qwen2VLSizes, Tokenizer], dict[str, Any]] = config_of,
    scale: float = 1,
) -> Path:
    """Write a checkpoint and return its folder; with an adapter, its base lies beside it as `<folder>-base`.

    `tokenizer` is one of `make_tokenizer`, by default that of no words; `config_of` gives the flat `config.json` of a
    model; `scale` is what an adapter is merged times.
    """
    sizes = sizes or Qwen2VLSizes()
    generator = torch.Generator().manual_seed(seed)
    tokenizer = tokenizer or make_tokenizer()
    config = config_of(sizes, tokenizer)
    weights = random_weights(published_shapes(config), sizes, generator)
    if layout == "engine-old" and not sizes.tied:  # classes of that time had a language head, which nothing reads
        weights["lm_head.weight"] = weights["language_model.embed_tokens.weight"] + 1
    base = folder.with_name(folder.name + "-base") if adapter else folder
    write_model(base, weights, in_form(config, form), layout)
    if adapter:
        dora = adapter == "dora"
        modules = random_adapter(
            weights, LORA_TARGETS, rank=sizes.rank, deviation=sizes.deviation, generator=generator, dora=dora
        )
        write_adapter(folder, str(base.resolve()), modules, layout, sizes.rank, dora, scale)
    write_processor(folder, tokenizer, sizes, PROCESSORS[config["architectures"][0]])
    return folder


# Width of the dense vectors of `make_colqwen2_dense`.
DENSE = 96


def make_colqwen2_dense(folder: Path, sizes: Qwen2VLSizes | None = None, **options: Any) -> Path:
    """Write a checkpoint with a mean and a dense layer of sentence-transformers, without bias, behind its last states.

    `options` are those of `make_colqwen2`.
    """
    sizes = sizes or Qwen2VLSizes()
    checkpoint = make_colqwen2(folder, sizes, **options)
    return write(checkpoint, MEAN, dense(sizes.width, DENSE, bias=False), NORMALIZE)


def make_published_colqwen2(folder: Path) -> None:
    """Write ColQwen2 on Qwen2-VL-2B: full weights, as the hub's files of Qwen2-VL are laid out."""
    folder.mkdir()
    tokenizer = make_tokenizer()
    config = config_of(QWEN2_VL_2B, tokenizer)
    shapes = {renamed(name, "engine-old"): shape for name, shape in published_shapes(config).items()}
    write_shards(
        folder, shapes, lambda name: (mean_of(name), QWEN2_VL_2B.deviation), dtype=QWEN2_VL_2B.dtype, seed=0, shards=5
    )
    write_json(folder / "config.json", config)
    write_processor(folder, tokenizer, QWEN2_VL_2B, "ColQwen2Processor")
