"""Nemotron ColEmbed V2: checkpoints in its published layout, and the released steps on transformers' Qwen3-VL.

The released class is on the hub alone; what it does around the model is put together here. Legend: B rows, T tokens,
K dimensions of a late vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from periscope_testing.files import rewrite_json, write_json
from periscope_testing.qwen3_vl import OTHER, make_shaped
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding, make_qwen3_vl_reranker
from periscope_testing.reference import Floats, Item, Vectors, maxsim
from periscope_testing.system import System, detailed_page, with_other
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# All that the released processor writes beside the class of its image processor.
_SETTINGS = {
    "processor_class": "Qwen3VLNemotronEmbedProcessor",
    "q_max_length": 512,
    "p_max_length": 4096,
    "query_prefix": "query:",
    "passage_prefix": "passage:",
    "reserve_tokens_for_images": 100,
}


def make_nemotron_colembed_v2(
    folder: Path,
    sizes: Qwen3VLSizes | None = None,
    *,
    seed: int = 0,
    head: bool = False,
    max_pixels: int = 262144,
    **settings: Any,
) -> Path:
    """Write a checkpoint and return its folder: with or without a language head, `settings` as its processor's own."""
    make = make_qwen3_vl_reranker if head else make_qwen3_vl_embedding
    make(folder, sizes, seed=seed)
    rewrite_json(
        folder / "config.json",
        architectures=["Qwen3VLNemotronEmbedModel"],
        model_type="qwen3_vl_nemotron_embed",
        pooling="colbert",
    )
    rewrite_json(folder / "preprocessor_config.json", size={"shortest_edge": 65536, "longest_edge": max_pixels})
    write_json(folder / "processor_config.json", {**_SETTINGS, **settings})
    return folder


class NemotronReference:
    """Loads a checkpoint as its users do. Rows go one by one, so nothing is padded, in float32."""

    # Attributes that mistakes change.
    causal = final_norm = False
    deepstack = generation_prompt = True
    query = "Query: query: "

    def __init__(self, checkpoint: Path) -> None:
        from transformers import Qwen3VLConfig, Qwen3VLModel, Qwen3VLProcessor
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
        from transformers.utils import logging

        logging.disable_progress_bar()
        config = Qwen3VLConfig.from_pretrained(checkpoint)
        model, report = Qwen3VLModel.from_pretrained(
            checkpoint, config=config, dtype=torch.float32, output_loading_info=True
        )
        left = {name: keys for name, keys in report.items() if keys and keys != {"lm_head.weight"}}
        assert not left, f"transformers did not load {checkpoint.name} completely: {left}"
        self.model, self.norm = model.eval(), model.language_model.norm
        self.processor = Qwen3VLProcessor.from_pretrained(checkpoint)
        self.processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)

    def embed(self, item: Item) -> Vectors:
        """Return late vectors [T, K]."""
        return Vectors(late=np.asarray(torch.nn.functional.normalize(self._states(self._prepared(item)), dim=-1)))

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return MaxSim of the query and each document."""
        return maxsim(self, query, documents)

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return patches, before they are rescaled."""
        prepared = self.processor.image_processor(page, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.asarray(prepared["pixel_values"]).astype(np.uint8)

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return token ids."""
        (item,) = items
        return np.asarray(self._prepared(item)["input_ids"][0])

    def _prepared(self, item: Item) -> dict[str, torch.Tensor]:
        if item.image is None:
            content = [{"type": "text", "text": f"{self.query}{item.text}"}]
        else:
            content = [{"type": "image"}, {"type": "text", "text": f"passage: {item.text or ''}"}]
        prompt = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=self.generation_prompt, tokenize=False
        )
        images = None if item.image is None else [item.image]
        return dict(self.processor(text=[prompt], images=images, return_tensors="pt"))

    @torch.inference_mode()
    def _states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the model and return what its last layer gives [T, K]."""
        ids_BT, grids = inputs["input_ids"], inputs.get("image_grid_thw")
        is_image_BT = ids_BT == self.model.config.image_token_id
        positions_3BT, _ = self.model.get_rope_index(ids_BT, is_image_BT.int(), grids)
        x_BTH, levels = self.model.get_input_embeddings()(ids_BT), None
        if grids is not None:
            features = self.model.get_image_features(inputs["pixel_values"], grids)
            x_BTH[is_image_BT] = torch.cat(tuple(features.pooler_output))
            levels = [torch.cat(tuple(level)) for level in features.deepstack_features]
        tokens = ids_BT.shape[1]
        mask = torch.ones_like(ids_BT) if self.causal else torch.zeros(1, 1, tokens, tokens)
        language_model = self.model.language_model
        language_model.norm = self.norm if self.final_norm else torch.nn.Identity()
        states_BTK: torch.Tensor = language_model(
            inputs_embeds=x_BTH,
            position_ids=positions_3BT,
            attention_mask=mask,
            visual_pos_masks=is_image_BT if self.deepstack else None,
            deepstack_visual_embeds=levels if self.deepstack else None,
        ).last_hidden_state
        return states_BTK[0]


_PAGE = Item(image=detailed_page(308, 252), role="document")
_QUERY = Item("energy")

SYSTEMS = (
    System(
        "nemotron",
        "nemotron_colembed_v2",
        "qwen3_vl",
        partial(make_nemotron_colembed_v2, seed=71),
        NemotronReference,
        shaped=partial(make_shaped, make_nemotron_colembed_v2),
        shallow=partial(make_nemotron_colembed_v2, sizes=Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1)),
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={
            "causal attention": (_QUERY, with_other(causal=True)),
            "the final norm": (_QUERY, with_other(final_norm=True)),
            "no DeepStack": (_PAGE, with_other(deepstack=False)),
            "the prefix once": (_QUERY, with_other(query="Query: ")),
            "no generation prompt": (_QUERY, with_other(generation_prompt=False)),
        },
    ),
    # As unlike the first as the layout allows: bf16, a language head, other widths and levels, vectors as wide as the
    # published ones, the base's limit of pixels.
    System(
        "nemotron_8b",
        "nemotron_colembed_v2",
        "qwen3_vl",
        partial(
            make_nemotron_colembed_v2,
            sizes=replace(OTHER, vision_layers=3, layers=2, width=4096, shards=2),
            seed=72,
            head=True,
            max_pixels=16777216,
        ),
        NemotronReference,
    ),
)
