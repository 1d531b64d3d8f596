"""LamRA-Ret: checkpoints in its published layouts, and the path of its evaluation on transformers' Qwen2-VL and
Qwen2.5-VL.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from periscope_testing.qwen2_5_vl import make_qwen2_5_vl, window_by_window
from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.qwen2_vl_reference import Qwen2VLReference, make_shallow, mistakes
from periscope_testing.reference import Item
from periscope_testing.system import System, with_other

SUMMARIES = {
    (True, True): "Summarize above image and sentence in one word: ",
    (False, True): "Summarize above sentence in one word: ",
    (True, False): "Summarize above image in one word: ",
}


def format_string(text: str | None) -> str:
    """Return a text as the data of M-BEIR are read."""
    text = (text or "").replace("\r", "").strip().strip('"')
    return text and text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


class LamraReference(Qwen2VLReference):
    """At most 300 visual tokens, then the processor's resize; the state before <emb>, which is added at run time."""

    max_pixels = 300 * 28 * 28
    summaries = SUMMARIES
    offset = -1

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.processor.tokenizer.add_tokens(["<emb>"])
        # Its embedding never matters; the row of its id is an untrained one that the files have.
        self.emb_id = self.processor.tokenizer.convert_tokens_to_ids("<emb>")

    def prompt(self, item: Item) -> str:
        """Return the chat, with the answer that the model was trained for."""
        text = format_string(item.text)
        if item.role == "query" and item.instruction is not None:
            text = format_string(f"{format_string(item.instruction)} {item.text or ''}")
        summary = "\n" + self.summaries[item.image is not None, bool(text)]
        images = [] if item.image is None else [{"type": "image"}]
        turns = [
            {"role": "user", "content": [*images, {"type": "text", "text": text + summary}]},
            {"role": "assistant", "content": [{"type": "text", "text": "<emb>."}]},
        ]
        chat: str = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return chat

    def pooled(self, ids_T: torch.Tensor) -> int:
        """Return the token before the first <emb>."""
        return int((ids_T == self.emb_id).int().argmax()) + self.offset


class Lamra25Reference(LamraReference):
    """The same on Qwen2.5-VL, with M-RoPE."""

    architecture, processor_class = "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"
    positions = "mrope"

    def in_order(self, patches_PC: NDArray[np.uint8], grids: torch.Tensor) -> NDArray[np.uint8]:
        """Return patches window by window."""
        return window_by_window(self.model.visual, patches_PC, grids)


# As unlike the other system's checkpoint as the layout allows: bf16, a language head of its own, the names and the
# config.json of transformers 5.
_SIZES = Qwen2VLSizes(language_layers=3, heads=3, tied=False, dtype=torch.bfloat16, max_pixels=12845056)

# Mistakes that LamRA's prompts and pooling can be written with.
_MISTAKES = {
    "the state of <emb>": (Item("energy"), with_other(offset=0)),
    "no summary": (Item("energy"), with_other(summaries=dict.fromkeys(SUMMARIES, ""))),
    "no blank at the end": (
        Item("energy"),
        with_other(summaries={kind: text.strip() for kind, text in SUMMARIES.items()}),
    ),
}
# The 7B is untied, and was merged in fp16.
_SIZES_25 = Qwen2VLSizes(heads=3, tied=False, dtype=torch.float16, max_pixels=12845056)

SYSTEMS = (
    System(
        "lamra",
        "lamra_ret",
        "qwen2_vl",
        partial(make_qwen2_vl, sizes=_SIZES, seed=22, layout="new", form="nested"),
        LamraReference,
        shallow=make_shallow,
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={**mistakes(700, 560), **_MISTAKES},
    ),
    System(
        "lamra_qwen2_5",
        "lamra_ret_qwen2_5",
        "qwen2_5_vl",
        partial(make_qwen2_5_vl, sizes=_SIZES_25, seed=23),
        Lamra25Reference,
        shallow=partial(make_qwen2_5_vl, sizes=Qwen2VLSizes(language_layers=1, mlp=64)),
        attention={"vision_encoder": 2, "language_model": 1},
        mistakes={**mistakes(700, 560, positions="sequential"), **_MISTAKES},
    ),
)
