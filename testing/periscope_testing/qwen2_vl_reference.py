"""The published Qwen2-VL, and its siblings, as retrieval code calls them: with embeddings in hand.

Rows go one by one, so nothing is padded, in float32. Legend: B rows, T tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.reference import Floats, Item, Vectors, cosines
from periscope_testing.system import Mistake, detailed_page, with_other
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

Positions = Literal["sequential", "mrope"]

make_shallow = partial(make_qwen2_vl, sizes=Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64))


def mistakes(width: int, height: int, positions: Positions = "mrope") -> dict[str, tuple[Item, Mistake]]:
    """Mistakes that any of these systems can be written with, each with a page of a size that shows it.

    `positions` are those that the system does not have.
    """
    page = Item(image=detailed_page(width, height))
    return {
        f"{positions} positions": (page, with_other(positions=positions)),
        "the processor's resize alone": (page, with_other(max_pixels=0)),
    }


class Qwen2VLReference:
    """Loads a checkpoint as its users do and embeds with it: the normalised state of one token.

    A system says in `prompt` what it makes of an item, and in `pooled` which token it reads.
    """

    # The positions of tokens; a mistake of implementations has others.
    positions: Positions = "sequential"
    causal = True
    # The published class, and its processor's; weights of a checkpoint that it does not have.
    architecture, processor_class = "Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"
    unused: frozenset[str] = frozenset()
    # Limits of the resize of qwen-vl-utils, before that of the processor; 0 where there is none.
    min_pixels, max_pixels = 4 * 28 * 28, 16384 * 28 * 28

    def __init__(self, checkpoint: Path, **limits: int) -> None:
        import transformers
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
        from transformers.utils import logging

        logging.disable_progress_bar()
        model, report = getattr(transformers, self.architecture).from_pretrained(
            checkpoint, dtype=torch.float32, output_loading_info=True
        )
        left = {name: keys for name, keys in report.items() if set(keys) - self.unused}
        assert not left, f"transformers did not load {checkpoint.name} completely: {left}"
        self.model = model.eval().model
        self.processor = getattr(transformers, self.processor_class).from_pretrained(checkpoint)
        self.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint, **limits)

    def prompt(self, item: Item) -> str:
        """Return the prompt of an item, with one image token for its image."""
        raise NotImplementedError

    def pooled(self, ids_T: torch.Tensor) -> int:
        """Return which token makes the vector."""
        return len(ids_T) - 1

    def embed(self, item: Item) -> Vectors:
        """Return the dense vector."""
        inputs = self._prepared(item)
        state_H = self._states(inputs)[0, self.pooled(inputs["input_ids"][0])]
        return Vectors(dense=np.asarray(torch.nn.functional.normalize(state_H, dim=-1)))

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return the cosine of the query and each document."""
        return cosines(self, query, documents)

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return patches, before they are rescaled."""
        prepare = self.processor.image_processor
        prepared = prepare(self.fetched(page), do_rescale=False, do_normalize=False, return_tensors="np")
        patches_PC = np.asarray(prepared["pixel_values"]).astype(np.uint8)
        return self.in_order(patches_PC, torch.as_tensor(prepared["image_grid_thw"]))

    def in_order(self, patches_PC: NDArray[np.uint8], grids: torch.Tensor) -> NDArray[np.uint8]:
        """Return patches as the first block of the vision tower has them."""
        return patches_PC

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return token ids up to the one that makes the vector."""
        (item,) = items
        ids_T = self._prepared(item)["input_ids"][0]
        return np.asarray(ids_T[: self.pooled(ids_T) + 1])

    def fetched(self, page: Image.Image) -> Image.Image:
        """Return a page as qwen-vl-utils hands it to the processor."""
        from qwen_vl_utils.vision_process import fetch_image

        if not self.max_pixels:
            return page
        # It lays over white what is RGBA, and drops the transparency of greys.
        page = page.convert("RGBA") if "A" in page.getbands() else page
        return fetch_image({"image": page, "min_pixels": self.min_pixels, "max_pixels": self.max_pixels})

    def _prepared(self, item: Item) -> dict[str, torch.Tensor]:
        images = None if item.image is None else [self.fetched(item.image)]
        return dict(self.processor(text=[self.prompt(item)], images=images, return_tensors="pt"))

    def embedded(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens [B, T, H]."""
        found: torch.Tensor = self.model.get_input_embeddings()(ids_BT)
        return found

    def beside(self, features: Any, is_image_BT: torch.Tensor) -> dict[str, Any]:
        """Return what the language model gets of visual features beside the embeddings that they replace."""
        return {}

    @torch.inference_mode()
    def _states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the model and return its last states [B, T, H]."""
        ids_BT, config = inputs["input_ids"], self.model.config
        images, videos = inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
        x_BTH, beside = self.embedded(ids_BT), dict[str, Any]()
        is_image_BT, is_frame_BT = ids_BT == config.image_token_id, ids_BT == config.video_token_id
        if images is not None:
            features = self.model.get_image_features(inputs["pixel_values"], images)
            x_BTH[is_image_BT] = torch.cat(tuple(features.pooler_output))
            beside = self.beside(features, is_image_BT)
        if videos is not None:
            features = self.model.get_video_features(inputs["pixel_values_videos"], videos)
            x_BTH[is_frame_BT] = torch.cat(tuple(features.pooler_output))
        positions_3BT = torch.arange(ids_BT.shape[1]).expand(3, *ids_BT.shape)
        if self.positions == "mrope":
            kinds_BT = is_image_BT.int() + 2 * is_frame_BT.int()
            positions_3BT, _ = self.model.get_rope_index(ids_BT, kinds_BT, images, videos)
        tokens = ids_BT.shape[1]
        # Zeros are added to all scores: each token sees each other one.
        mask = torch.ones_like(ids_BT) if self.causal else torch.zeros(1, 1, tokens, tokens)
        states_BTH: torch.Tensor = self.model.language_model(
            inputs_embeds=x_BTH, position_ids=positions_3BT, attention_mask=mask, **beside
        ).last_hidden_state
        return states_BTH
