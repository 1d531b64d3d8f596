"""GME-Qwen2-VL: checkpoints in its published layout, and gme_inference.py on transformers' Qwen2-VL.

The published class itself refuses transformers 4.52 and newer. What it does to the prompt and to images is done here
by the same calls; its own copy of qwen-vl-utils only lacks the refusal of narrow pages.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.qwen2_vl_reference import Qwen2VLReference, make_shallow, mistakes
from periscope_testing.reference import Item
from periscope_testing.system import System, with_other

# As on the hub: saved without what equals a default, and with the base's limits of pixels, which are never used.
_SIZES = Qwen2VLSizes(vision_heads=3, max_pixels=12845056)


class GmeReference(Qwen2VLReference):
    """Resized twice, 256 to 1280 visual tokens, and the state of the literal <|endoftext|> at the end."""

    ending = "<|endoftext|>"
    image_token = "<|vision_start|><|image_pad|><|vision_end|>"
    default = "You are a helpful assistant."

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint, min_pixels=256 * 28 * 28, max_pixels=1280 * 28 * 28)

    def prompt(self, item: Item) -> str:
        """Return the prompt; an instruction counts for queries alone."""
        given = None if item.role == "document" else item.instruction
        content = ("" if item.image is None else self.image_token) + (item.text or "")
        return (
            f"<|im_start|>system\n{given or self.default}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
            f"<|im_start|>assistant\n{self.ending}"
        )


SYSTEMS = (
    System(
        "gme",
        "gme_qwen2_vl",
        "qwen2_vl",
        partial(make_qwen2_vl, sizes=_SIZES, seed=21, form="short"),
        GmeReference,
        shallow=make_shallow,
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={
            **mistakes(200, 150),
            "the token before the last one": (Item("energy"), with_other(ending="")),
            "an instruction with a full stop": (Item("energy"), with_other(default="You are a helpful assistant")),
        },
    ),
)
