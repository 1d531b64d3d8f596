"""Weight names of a Qwen3-VL: every layout in the wild to the one that the towers use.

The published files have `model.visual.*`, `model.language_model.*` and `lm_head.weight`; what is saved from the inner
model has no `model.` in front.
"""

from __future__ import annotations

import re

_RULES = (
    (r"^model\.(visual|language_model)\.", r"\1."),
    # The two halves of an MLP are called as in the other towers.
    (r"^(visual\..*)\.linear_(fc[12])\.", r"\1.\2."),
)

# A retriever has no language head; a reranker reads the rows that it scores with by themselves.
UNUSED = r"lm_head\.weight|.*\.(rotary_emb|rotary_pos_emb)\.inv_freq"


def canonical(name: str) -> str:
    """Return the tower's name for a stored weight; a name that no rule knows stays as it is."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
