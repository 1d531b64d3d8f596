"""The published implementation: colpali-engine's ColQwen2 on transformers, in the form that the recipe names.

M-RoPE position ids are passed explicitly, because some versions of transformers do not build them by themselves, and
images go through the PIL processor. The dense vector of a checkpoint that was trained for one is the
mean of the states that its projection reads. Legend: B rows, T tokens, K dimensions of a late vector, H of a state.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from periscope_testing.colqwen2.layout import PROCESSORS
from periscope_testing.reference import Floats, Item, Vectors
from periscope_testing.sentence_transformers_files import linear
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()


class ColQwen2Reference:
    """Loads a checkpoint as its users do and embeds with it, in float32 on the CPU if nothing else is asked for."""

    # The number of augmentation tokens behind a query.
    augmentation = 10

    def __init__(
        self,
        checkpoint: Path,
        query_prefix: str = "Query: ",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        architecture: str = "ColQwen2",
    ) -> None:
        from colpali_engine import models
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.model = _load(checkpoint, getattr(models, architecture)).eval().to(device, dtype)
        self.device = device
        self.processor = getattr(models, PROCESSORS[architecture]).from_pretrained(checkpoint)
        self.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)
        self.query_prefix = query_prefix

    def inputs(self, item: Item) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of an item."""
        return self.query_inputs([item.text or ""]) if item.image is None else self.image_inputs([item.image])

    def embed(self, item: Item) -> Vectors:
        """Return late and dense vectors."""
        return Vectors(*self.late_and_dense(self.inputs(item))[0])

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return MaxSim of the query and each document, by the published scorer."""
        (query_TK,), documents_TK = self.run(self.inputs(query)), [self.run(self.inputs(one))[0] for one in documents]
        return self.maxsim([query_TK], documents_TK)[0]

    def pixels(self, page: Image.Image) -> npt.NDArray[np.uint8]:
        """Return patches, before they are rescaled."""
        prepare = self.processor.image_processor
        patches_PC = prepare(page, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return np.asarray(patches_PC).astype(np.uint8)

    def ids(self, *items: Item) -> npt.NDArray[np.integer[Any]]:
        """Return token ids."""
        (item,) = items
        return np.asarray(self.inputs(item)["input_ids"][0])

    def images(self, images: Sequence[Image.Image]) -> list[Floats]:
        """Embed pages in one batch; each [T, K], padding removed."""
        # process_images itself drops transparency; the image processor beneath it composites over white.
        return self.run(self.image_inputs(images))

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of pages."""
        return dict(self.processor.process_images(list(images)))

    def queries(self, texts: Sequence[str]) -> list[Floats]:
        """Embed queries in one batch; each [T, K], padding removed."""
        return self.run(self.query_inputs(texts))

    def query_inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return what the published processor makes of queries."""
        suffix = self.processor.query_augmentation_token * self.augmentation
        return dict(self.processor.process_texts([self.query_prefix + text + suffix for text in texts]))

    def run(self, inputs: dict[str, torch.Tensor]) -> list[Floats]:
        """Run the model and return the vectors of attended tokens."""
        return [late_TK for late_TK, _ in self.late_and_dense(inputs)]

    @torch.inference_mode()
    def late_and_dense(self, inputs: dict[str, torch.Tensor]) -> list[tuple[Floats, Floats]]:
        """Run the model and return, of each row, late vectors [T, K] and the normalised mean [H] of the last states."""
        states: list[torch.Tensor] = []
        hook = self.model.custom_text_proj.register_forward_pre_hook(
            lambda module, arguments: states.append(*arguments)
        )
        vectors_BTK = self.forward(self.placed(inputs)).float().cpu()
        hook.remove()
        states_BTH = states[0].float().cpu()
        rows = []
        for vectors_TK, states_TH, mask_T in zip(vectors_BTK, states_BTH, inputs["attention_mask"].bool(), strict=True):
            mean_H = states_TH[mask_T].mean(0)
            rows.append((np.asarray(vectors_TK[mask_T]), np.asarray(mean_H / mean_H.norm())))
        return rows

    def placed(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return inputs with their position ids, on the model's device."""
        whole = {**inputs, "position_ids": self.position_ids(inputs)}
        return {name: tensor.to(self.device) for name, tensor in whole.items()}

    @torch.inference_mode()
    def forward(self, placed: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the model on what `placed` gave: vectors [B, T, K], on its device."""
        vectors_BTK: torch.Tensor = self.model(**placed)
        return vectors_BTK

    def position_ids(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return M-RoPE position ids [3, B, T], from the published rule."""
        ids_BT = inputs["input_ids"]
        token_types = (ids_BT == self.model.config.image_token_id).int()
        positions: tuple[torch.Tensor, Any] = self.model.get_rope_index(
            ids_BT, token_types, inputs.get("image_grid_thw"), attention_mask=inputs["attention_mask"]
        )
        return positions[0]

    def maxsim(self, queries: Sequence[Floats], pages: Sequence[Floats]) -> Floats:
        """MaxSim of every query with every page [Q, N], by the published scorer."""
        rows = ([torch.from_numpy(vectors) for vectors in group] for group in (queries, pages))
        return np.asarray(self.processor.score(*rows, device="cpu"))


class ColQwen2DenseReference(ColQwen2Reference):
    """The same with a dense layer of sentence-transformers, without an activation, behind the mean of the states."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.dense = partial(linear, checkpoint, "2_Dense")

    def embed(self, item: Item) -> Vectors:
        """Return late and dense vectors."""
        late_TK, mean_H = super().embed(item)
        return Vectors(late_TK, np.asarray(torch.nn.functional.normalize(self.dense(torch.from_numpy(mean_H)), dim=-1)))


# As colpali-engine has it for its other classes.
_OLD_NAMES = {r"^model\.(layers|embed_tokens|norm)": r"language_model.\1"}


def _load(checkpoint: Path, model_class: Any) -> Any:
    """Load a model with its adapter, or stop: some versions leave weights at random with no more than a warning."""
    from peft import PeftModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    adapter = checkpoint / "adapter_config.json"
    settings = json.loads(adapter.read_text(encoding="utf-8")) if adapter.is_file() else {}
    # transformers' own adapter loading finds neither DoRA's magnitudes nor a base beside the adapter; peft's does.
    base = settings.get("base_model_name_or_path", "")
    by_peft = settings.get("use_dora", False) or (base and not Path(base).is_absolute())
    source = checkpoint / base if by_peft else checkpoint
    # BiQwen2_5 asks transformers for what version 5 no longer has.
    mapping = {} if hasattr(model_class, "_checkpoint_conversion_mapping") else {"key_mapping": _OLD_NAMES}
    model, report = model_class.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **mapping)
    # A base that is no retriever has a language head.
    left = {name: rest for name, keys in report.items() if (rest := set(keys) - {"lm_head.weight"})}
    if left:
        raise RuntimeError(f"reference: colpali-engine did not load {checkpoint.name} completely: {left}")
    if not by_peft:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute by its old name
        return PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
