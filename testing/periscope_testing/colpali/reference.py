"""The published ColPali: transformers' ColPaliForRetrieval and its processor, and colpali-engine's ColPali.

Both in float32, with images through the PIL processor. Token types, all zero, are always passed: without them
transformers 5 masks causally or not depending on the backend and on whether a batch is padded.
Legend: B rows, T tokens, K dimensions of a late vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file

from periscope_testing.reference import Floats, Item, Vectors, patches
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()


class ColPaliReference:
    """Loads a checkpoint as its users do and embeds with it.

    A checkpoint in the layout of transformers is loaded by transformers, one of colpali-engine by colpali-engine, with
    its adapter; the processor is that of transformers in both cases. `side` is for a checkpoint that says nothing of
    images.
    """

    def __init__(self, checkpoint: Path, side: int = 448) -> None:
        from transformers import AutoTokenizer, ColPaliProcessor
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        if (checkpoint / "preprocessor_config.json").is_file():
            image_processor = SiglipImageProcessorPil.from_pretrained(checkpoint)
        else:
            image_processor = SiglipImageProcessorPil(size={"height": side, "width": side})
            image_processor.image_seq_length = (side // 14) ** 2
        self.model = _load(checkpoint).eval()
        self.processor = ColPaliProcessor(image_processor, AutoTokenizer.from_pretrained(checkpoint))

    @property
    def query_prefix(self) -> str:
        """The words before a query."""
        prefix: str = self.processor.query_prefix
        return prefix

    @query_prefix.setter
    def query_prefix(self, prefix: str) -> None:
        self.processor.query_prefix = prefix

    def inputs(self, item: Item) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of an item."""
        return self.query_inputs([item.text or ""]) if item.image is None else self.image_inputs([item.image])

    def embed(self, item: Item) -> Vectors:
        """Return late vectors."""
        return Vectors(self.run(self.inputs(item))[0])

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return MaxSim of the query and each document, by the published scorer."""
        (query_TK,), documents_TK = self.run(self.inputs(query)), [self.run(self.inputs(one))[0] for one in documents]
        return self.maxsim([query_TK], documents_TK)[0]

    def pixels(self, page: Image.Image) -> npt.NDArray[np.uint8]:
        """Return patches, before they are rescaled: channel, row, column."""
        prepare = self.processor.image_processor
        options = {"do_convert_rgb": True, "do_rescale": False, "do_normalize": False, "return_tensors": "np"}
        (pixels_3SS,) = prepare(page, **options)["pixel_values"]
        return patches(np.asarray(pixels_3SS).astype(np.uint8), 14)

    def ids(self, *items: Item) -> npt.NDArray[np.integer[Any]]:
        """Return token ids."""
        (item,) = items
        return np.asarray(self.inputs(item)["input_ids"][0])

    def images(self, images: Sequence[Image.Image]) -> list[Floats]:
        """Embed pages in one batch; each [T, K], padding removed."""
        return self.run(self.image_inputs(images))

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of pages."""
        return dict(self.processor.process_images(images=list(images)))

    def queries(self, texts: Sequence[str]) -> list[Floats]:
        """Embed queries in one batch; each [T, K], padding removed."""
        return self.run(self.query_inputs(texts))

    def query_inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of queries."""
        return dict(self.processor.process_queries(text=list(texts)))

    @torch.inference_mode()
    def run(self, inputs: dict[str, torch.Tensor]) -> list[Floats]:
        """Run the model and return the vectors of attended tokens."""
        known = {name: value for name, value in inputs.items() if name != "labels"}
        output = self.model(**{**known, "token_type_ids": torch.zeros_like(inputs["input_ids"])})
        vectors_BTK = output if isinstance(output, torch.Tensor) else output.embeddings
        masks = inputs["attention_mask"].bool()
        return [np.asarray(vectors_TK[mask_T]) for vectors_TK, mask_T in zip(vectors_BTK, masks, strict=True)]

    def maxsim(self, queries: Sequence[Floats], pages: Sequence[Floats]) -> Floats:
        """MaxSim of every query with every page [Q, N], by the published scorer.

        One page at a time: the scorer pads pages with zeros, which take part in its maximum.
        """
        rows = [torch.from_numpy(vectors) for vectors in queries]
        columns = [self.processor.score_retrieval(rows, [torch.from_numpy(vectors)]) for vectors in pages]
        return np.asarray(torch.cat(columns, dim=1))


def _load(checkpoint: Path) -> Any:
    """Load a model with its adapter, or stop: some versions leave weights at random with no more than a warning."""
    from colpali_engine.models import ColPali
    from transformers import ColPaliForRetrieval
    from transformers.utils import logging

    logging.disable_progress_bar()
    adapter = checkpoint / "adapter_config.json"
    base = checkpoint
    if adapter.is_file():
        base = Path(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    kind = ColPaliForRetrieval if config["model_type"] == "colpali" else ColPali
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    model, report = kind.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    logging.set_verbosity(level)
    left = {name: keys for name, keys in report.items() if keys}
    # The language head is no part of the class.
    if left and left != {"unexpected_keys": {"vlm.language_model.lm_head.weight"}}:
        raise RuntimeError(f"reference: {checkpoint.name} was not loaded completely: {left}")
    if adapter.is_file():
        _check_adapter(model, checkpoint)
    return model


def _check_adapter(model: Any, folder: Path) -> None:
    """Stop unless the low-rank matrices in the model are those of the file: the report says nothing of them."""
    loaded = [float(tensor.double().sum()) for name, tensor in model.named_parameters() if ".lora_" in name]
    stored = [float(tensor.double().sum()) for tensor in load_file(folder / "adapter_model.safetensors").values()]
    if sorted(loaded) != sorted(stored):
        raise RuntimeError(f"reference: the adapter {folder.name} was not loaded completely")
