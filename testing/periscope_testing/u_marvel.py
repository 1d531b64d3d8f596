"""U-MARVEL: checkpoints in its published layouts, and the path of its evaluation on transformers' Qwen-VLs.

Tokens are added and embeddings resized by transformers, one token after the other, as the released code does. Legend:
B rows, T tokens, H hidden width, V rows of the table of embeddings.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from periscope_testing.files import write_json
from periscope_testing.lamra_ret import format_string
from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.qwen2_vl_reference import Qwen2VLReference, make_shallow, mistakes
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_reranker
from periscope_testing.reference import Item, Vectors
from periscope_testing.system import System, detailed_page, with_other

START, END = "<instruction_start>", "<instruction_end>"
ADDED = ("<emb>", START, END)
TEMPERATURE = "sim.temp"


def with_temperature(folder: Path) -> Path:
    """Add the scalar that training leaves in a checkpoint, and return its folder."""
    file, index = "model-temperature.safetensors", folder / "model.safetensors.index.json"
    save_file({TEMPERATURE: torch.tensor(0.05)}, folder / file, metadata={"format": "pt"})
    found = json.loads(index.read_text(encoding="utf-8"))
    found["weight_map"][TEMPERATURE] = file
    write_json(index, found)
    return folder


def make_u_marvel(folder: Path, sizes: Qwen2VLSizes | None = None, **options: Any) -> Path:
    """Write a checkpoint on Qwen2-VL and return its folder; `options` are those of `make_qwen2_vl`."""
    return with_temperature(make_qwen2_vl(folder, sizes, **options))


def make_u_marvel_qwen3(folder: Path, sizes: Qwen3VLSizes | None = None, *, seed: int = 0) -> Path:
    """Write a checkpoint on Qwen3-VL, with a language head of its own unless it is tied, and return its folder."""
    # A whole Qwen3-VL, as rerankers are published too.
    return with_temperature(make_qwen3_vl_reranker(folder, sizes, seed=seed))


class UMarvelReference(Qwen2VLReference):
    """Each token sees each other one; the mean of all last states but those of padding and of the instruction."""

    max_pixels = 300 * 28 * 28
    causal = False
    unused = frozenset({TEMPERATURE})
    # Attributes that mistakes change: what is pooled, and whether all rows are those of the file.
    instruction_pooled = padding_pooled = file_rows = False
    suffix = ""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.stored_VH = self.model.get_input_embeddings().weight.detach().clone()
        # transformers draws new rows around the mean.
        torch.manual_seed(0)
        for token in ADDED:
            assert self.processor.tokenizer.add_tokens([token]) == 1
            self.model.resize_token_embeddings(len(self.processor.tokenizer))
        self.start, self.end = self.processor.tokenizer.convert_tokens_to_ids([START, END])

    def prompt(self, item: Item) -> str:
        """Return the chat, with the answer that the model was trained for."""
        text = format_string(item.text)
        if item.role == "query" and item.instruction is not None:
            text = format_string(f"{START}{format_string(item.instruction)}{END} {item.text or ''}")
        images = [] if item.image is None else [{"type": "image"}]
        turns = [
            {"role": "user", "content": [*images, {"type": "text", "text": text + self.suffix}]},
            {"role": "assistant", "content": [{"type": "text", "text": "<emb>."}]},
        ]
        chat: str = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return chat

    def embed(self, item: Item) -> Vectors:
        """Return the dense vector."""
        inputs = self._prepared(item)
        states_TH, mean_T = self._states(inputs)[0], self.mean(inputs["input_ids"][0])
        return Vectors(dense=np.asarray(torch.nn.functional.normalize(states_TH[mean_T].mean(0), dim=-1)))

    def mean(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Return bool [T], which tokens are pooled: labels are ids without those of padding, wherever these stand."""
        pad = self.processor.tokenizer.pad_token_id
        mean_T = torch.ones_like(ids_T, dtype=torch.bool) if self.padding_pooled else ids_T != pad
        starts = (ids_T == self.start).nonzero().flatten().tolist()
        if starts and not self.instruction_pooled:
            (end,) = (ids_T == self.end).nonzero().flatten().tolist()
            mean_T[starts[0] : end + 1] = False
        return mean_T

    def embedded(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens [B, T, H]."""
        return torch.nn.functional.embedding(ids_BT, self.stored_VH) if self.file_rows else super().embedded(ids_BT)


class UMarvelQwen3Reference(UMarvelReference):
    """The same on Qwen3-VL, whose language model is called without what DeepStack would add."""

    architecture, processor_class = "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"
    deepstack = False

    def beside(self, features: Any, is_image_BT: torch.Tensor) -> dict[str, Any]:
        """Return the levels of DeepStack, where a mistake adds them."""
        if not self.deepstack:
            return {}
        levels = [torch.cat(tuple(level)) for level in features.deepstack_features]
        return {"visual_pos_masks": is_image_BT, "deepstack_visual_embeds": levels}


_PAGE = Item(image=detailed_page(300, 250))
_QUERY, _INSTRUCTED = Item("energy"), Item("energy", instruction="Find a page.")
_MISTAKES = {
    **mistakes(700, 560),
    "causal attention": (_QUERY, with_other(causal=True)),
    "the instruction pooled": (_INSTRUCTED, with_other(instruction_pooled=True)),
    "a written <|endoftext|> pooled": (Item("a<|endoftext|>b"), with_other(padding_pooled=True)),
    "rows of the file": (_INSTRUCTED, with_other(file_rows=True)),
    "LamRA's suffix": (_QUERY, with_other(suffix="\nSummarize above sentence in one word: ")),
}
SYSTEMS = (
    System(
        "u_marvel",
        "u_marvel",
        "qwen2_vl",
        # As the published 7B: bf16, a language head of its own.
        partial(
            make_u_marvel,
            sizes=Qwen2VLSizes(language_layers=3, heads=3, tied=False, dtype=torch.bfloat16, max_pixels=12845056),
            seed=31,
        ),
        UMarvelReference,
        shallow=make_shallow,
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes=_MISTAKES,
    ),
    System(
        "u_marvel_qwen3",
        "u_marvel_qwen3",
        "qwen3_vl",
        partial(make_u_marvel_qwen3, sizes=Qwen3VLSizes(dtype=torch.bfloat16), seed=32),
        UMarvelQwen3Reference,
        shallow=partial(make_u_marvel_qwen3, sizes=Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1, mlp=64)),
        attention={"vision_encoder": 1, "language_model": 1},
        mistakes={**_MISTAKES, "DeepStack": (_PAGE, with_other(deepstack=True))},
    ),
)
