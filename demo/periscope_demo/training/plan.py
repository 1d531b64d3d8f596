"""The plan of the training: what it makes, and the stages from scraps with few words to whole pages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from periscope_demo.pages.generator import FORMATS, Look
from periscope_demo.pages.vocabulary import FILLERS, TERMS
from periscope_demo.training.stage import Stage, Weights
from periscope_testing.qwen2_vl import Qwen2VLSizes

SEED = 20261123

# Every word of the pages and queries is one token.
TOKENS = (*TERMS, *FILLERS)

_SCRAPS = ((140, 84), (112, 112))
_CLIPPINGS = ((168, 140), (196, 112))
_EASY = Look(sizes=(17, 18), families=("sans",), noise=0.0, columns=False, shift=0)
_VARIED = Look(columns=False)
# A dense vector learns last: it has to tell all words of a page at once.
_DENSE = Weights(dense_terms=1.5, dense=1.5)


@dataclass(frozen=True)
class Plan:
    """The plan of a training.

    base: the stages in which the whole model learns.
    adapter: those in which only its adapter does.
    base_rate, adapter_rate: their peak learning rates.
    """

    base: tuple[Stage, ...]
    adapter: tuple[Stage, ...]
    base_rate: float = 1.2e-3
    adapter_rate: float = 1e-3


PLAN = Plan(
    base=(
        Stage(steps=400, pages=64, formats=_SCRAPS, look=_EASY, pool=200, contrast=False, queries_per_page=1),
        Stage(steps=900, pages=64, formats=_SCRAPS, look=_VARIED, pool=120, queries_per_page=1),
        Stage(steps=700, pages=32, formats=_CLIPPINGS, look=_VARIED, pool=100),
        Stage(steps=400, pages=16, formats=FORMATS, look=Look(), pool=90, queries_per_page=3),
        Stage(steps=1400, pages=16, formats=FORMATS, look=Look(), pool=90, queries_per_page=3, weights=_DENSE),
    ),
    adapter=(Stage(steps=200, pages=16, formats=FORMATS, look=Look(), pool=90, queries_per_page=3, weights=_DENSE),),
)


def sizes(tokenizer: Tokenizer) -> Qwen2VLSizes:
    """Return the widths and depths of the retriever. Pages of up to 256 visual tokens; larger ones are made smaller."""
    return Qwen2VLSizes(
        vision_layers=4,
        vision_heads=4,
        vision_head_width=40,
        language_layers=2,
        mlp=512,
        vocabulary=-(-tokenizer.get_vocab_size() // 64) * 64,
        rank=8,
        max_pixels=256 * 28 * 28,
        dtype=torch.bfloat16,
    )
