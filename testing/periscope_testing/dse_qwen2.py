"""DSE on Qwen2-VL: checkpoints in its published layout, and tevatron's collator and model on transformers' Qwen2-VL."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.qwen2_vl_reference import Qwen2VLReference, make_shallow
from periscope_testing.reference import Item, Vectors
from periscope_testing.system import System, detailed_page, with_other


class DseReference(Qwen2VLReference):
    """A page of one size, a text beside a dummy image, and the state of the literal <|endoftext|> at the end.

    What the published code writes into a message is an attribute, so that mistakes can change it.
    """

    positions: Literal["sequential", "mrope"] = "mrope"
    generation = True
    # The size that qwen-vl-utils is told; None where it keeps the aspect ratio of a page.
    page_side: int | None = 748
    # The dummy's own side, and what qwen-vl-utils is told of it; None where it is not asked, or there is no dummy.
    dummy: int | None = 28
    dummy_colour = "black"
    dummy_side: int | None = 1

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint, min_pixels=28 * 28, max_pixels=2560 * 28 * 28)

    def embed(self, item: Item) -> Vectors:
        """Return the dense vector: the first dimensions, normalised."""
        inputs = self._prepared(item)
        state_H = self._states(inputs)[0, -1, : item.dimensions]
        return Vectors(dense=np.asarray(torch.nn.functional.normalize(state_H, dim=-1)))

    def content(self, item: Item) -> list[dict[str, Any]]:
        """Return the content of the user's message."""
        if item.image is not None:
            side = {} if self.page_side is None else {"resized_height": self.page_side, "resized_width": self.page_side}
            # It lays over white what is RGBA, and drops the transparency of greys.
            page = item.image.convert("RGBA") if "A" in item.image.getbands() else item.image
            return [{"type": "image", "image": page, **side}, {"type": "text", "text": "What is shown in this image?"}]
        text = {"type": "text", "text": f"{'Document' if item.role == 'document' else 'Query'}: {item.text}"}
        if self.dummy is None:
            return [text]
        image = Image.new("RGB", (self.dummy, self.dummy), self.dummy_colour)
        side = {} if self.dummy_side is None else {"resized_height": self.dummy_side, "resized_width": self.dummy_side}
        return [{"type": "image", "image": image, **side}, text]

    def fetched(self, page: Image.Image) -> Image.Image:
        """Return a page as qwen-vl-utils hands it to the processor."""
        return self._fetched(self.content(Item(image=page, role="document")))[0]

    def _fetched(self, content: list[dict[str, Any]]) -> list[Image.Image]:
        from qwen_vl_utils.vision_process import fetch_image

        images = [part for part in content if part["type"] == "image"]
        # The mistake of a dummy that nobody resizes: qwen-vl-utils itself would make it larger.
        return [
            fetch_image(part) if part.get("resized_height") or self.page_side is None else part["image"]
            for part in images
        ]

    def _prepared(self, item: Item) -> dict[str, torch.Tensor]:
        content = self.content(item)
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=self.generation, tokenize=False
        )
        images = self._fetched(content) or None
        return dict(self.processor(text=[chat + "<|endoftext|>"], images=images, return_tensors="pt"))


_PAGE = Item(image=detailed_page(300, 200), role="document")
_QUERY = Item("energy")
# Pages are large: the vision tower has one layer. Wide enough for dimensions to be cut.
_SIZES = Qwen2VLSizes(vision_layers=1, heads=4, kv_heads=2, max_pixels=12845056, dtype=torch.bfloat16)

SYSTEMS = (
    System(
        "dse",
        "dse_qwen2",
        "qwen2_vl",
        partial(make_qwen2_vl, sizes=_SIZES, seed=23, files="bin"),
        DseReference,
        shallow=make_shallow,
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={
            "a query without the dummy image": (_QUERY, with_other(dummy=None)),
            "a dummy image of one visual token": (_QUERY, with_other(dummy_side=None)),
            "a white dummy image": (_QUERY, with_other(dummy_colour="white")),
            "plain positions of a query": (_QUERY, with_other(positions="sequential")),
            "plain positions of a page": (_PAGE, with_other(positions="sequential")),
            "no generation prompt": (_QUERY, with_other(generation=False)),
            "pages that keep their aspect ratio": (_PAGE, with_other(page_side=None)),
        },
    ),
)
