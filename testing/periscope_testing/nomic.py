"""Nomic Embed Multimodal and ColNomic: checkpoints in their published layouts, and colpali-engine's BiQwen2_5."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from periscope_testing.adapters import random_adapter
from periscope_testing.colqwen2.layout import Layout, published_shapes, write_adapter, write_model
from periscope_testing.colqwen2_5 import ColQwen25Reference, make_colqwen2_5
from periscope_testing.files import write_json
from periscope_testing.qwen2_5_vl import make_qwen2_5_vl, qwen2_5_vl_config
from periscope_testing.qwen2_vl import Form, Qwen2VLSizes, in_form, random_weights, write_processor
from periscope_testing.qwen2_vl import Layout as BaseLayout
from periscope_testing.reference import Floats, Item, Reference, Vectors, cosines
from periscope_testing.system import System, with_other
from periscope_testing.tokenizers.qwen2 import make_tokenizer

# The modules that the adapters of the dense models change.
_LORA_TARGETS = re.compile(r"language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight")


def make_nomic(
    folder: Path,
    sizes: Qwen2VLSizes | None = None,
    *,
    seed: int = 0,
    layout: Layout = "engine-old",
    adapter: bool = True,
    form: Form = "flat",
) -> Path:
    """Write a dense model and return its folder; with an adapter, Qwen's own lies beside it as `<folder>-base`."""
    sizes, tokenizer = sizes or Qwen2VLSizes(), make_tokenizer()
    config = qwen2_5_vl_config(sizes, tokenizer, "BiQwen2_5")
    shapes, generator = published_shapes(config), torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if adapter:
        names: BaseLayout = "old" if layout == "engine-old" else "new"
        base = make_qwen2_5_vl(folder.with_name(f"{folder.name}-base"), sizes, seed=seed, layout=names, form=form)
        shaped = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        modules = random_adapter(shaped, _LORA_TARGETS, rank=sizes.rank, deviation=sizes.deviation, generator=generator)
        write_adapter(folder, str(base.resolve()), modules, layout, sizes.rank)
    else:
        write_model(folder, random_weights(shapes, sizes, generator), in_form(config, form), layout)
    return _with_processor(folder, sizes)


def make_colnomic(folder: Path, sizes: Qwen2VLSizes | None = None, **options: Any) -> Path:
    """Write a late model and return its folder; `options` are those of `make_colqwen2`."""
    sizes = sizes or Qwen2VLSizes()
    return _with_processor(make_colqwen2_5(folder, sizes, **options), sizes)


def _with_processor(folder: Path, sizes: Qwen2VLSizes) -> Path:
    write_processor(folder, make_tokenizer(), sizes, "BiQwen2_5_Processor")
    tokens = {"max_num_visual_tokens": sizes.max_pixels // 784, "processor_class": "BiQwen2_5_Processor"}
    write_json(folder / "processor_config.json", tokens)
    return folder


class NomicReference(ColQwen25Reference):
    """The dense vector of colpali-engine's BiQwen2_5; texts as its version 0.3.10 makes queries."""

    augmentation = 1
    # Attributes that mistakes change: padding behind an item, and what is pooled.
    padding, pooling = 0, "last"

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint, architecture="BiQwen2_5")

    def inputs(self, item: Item) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of an item."""
        inputs, pad = super().inputs(item), self.processor.tokenizer.pad_token_id
        values = {name: pad if name == "input_ids" else 0 for name in ("input_ids", "attention_mask")}
        padded = {name: functional.pad(inputs[name], (0, self.padding), value=one) for name, one in values.items()}
        return {**inputs, **padded}

    @torch.inference_mode()
    def embed(self, item: Item) -> Vectors:
        """Return the dense vector."""
        (vector_H,) = self.model(pooling_strategy=self.pooling, **self.placed(self.inputs(item)))
        return Vectors(dense=np.asarray(vector_H))

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return the cosine of the query and each document."""
        return cosines(self, query, documents)


@contextmanager
def _without_adapter(reference: Reference) -> Iterator[None]:
    """Leave the base as it is."""
    assert isinstance(reference, ColQwen25Reference)
    reference.model.disable_adapters()
    try:
        yield
    finally:
        reference.model.enable_adapters()


_TEXT = Item("energy")
_SHALLOW = Qwen2VLSizes(language_layers=1, mlp=64)

SYSTEMS = (
    System(
        "nomic",
        "nomic_embed_multimodal",
        "qwen2_5_vl",
        partial(make_nomic, seed=41),
        NomicReference,
        shallow=partial(make_nomic, sizes=_SHALLOW, adapter=False),
        attention={"vision_encoder": 2, "language_model": 1},
        mistakes={
            "no adapter": (_TEXT, _without_adapter),
            "no prefix": (_TEXT, with_other(query_prefix="")),
            "ten tokens of augmentation": (_TEXT, with_other(augmentation=10)),
            "no token of augmentation": (_TEXT, with_other(augmentation=0)),
            "padding pooled": (_TEXT, with_other(padding=1)),
            "a mean": (_TEXT, with_other(pooling="mean")),
        },
    ),
    # Merged, as unlike the first as the layout allows.
    System(
        "nomic_merged",
        "nomic_embed_multimodal",
        "qwen2_5_vl",
        partial(
            make_nomic,
            sizes=Qwen2VLSizes(vision_layers=3, heads=3, tied=False, dtype=torch.bfloat16),
            seed=42,
            layout="engine-new",
            form="nested",
            adapter=False,
        ),
        NomicReference,
    ),
    # As the 7b: an untied base in two shards, and an adapter that counts more than its base's rows do.
    System(
        "colnomic",
        "colnomic_embed_multimodal",
        "qwen2_5_vl",
        partial(make_colnomic, sizes=Qwen2VLSizes(heads=3, tied=False, dtype=torch.bfloat16), seed=43, scale=1.5),
        ColQwen25Reference,
        shallow=partial(make_colnomic, sizes=_SHALLOW),
        attention={"vision_encoder": 2, "language_model": 1},
        mistakes={
            "no adapter": (_TEXT, _without_adapter),
            "another prefix": (_TEXT, with_other(query_prefix="Question: ")),
        },
    ),
)
