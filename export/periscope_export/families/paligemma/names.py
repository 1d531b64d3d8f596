"""Weight names of a PaliGemma: every layout in the wild to the one that the towers use.

`visual.*`, with the projector as `visual.projector.*`, and `language_model.*`.
"""

from __future__ import annotations

import re

_RULES = (
    # Models inside retrievers: `vlm.*` in transformers, `model.*` in colpali-engine, and an inner model in each.
    (r"^(?:vlm\.|model\.)+(?=vision_tower\.|multi_modal_projector\.|language_model\.|lm_head\.)", ""),
    # One level less since transformers 5 in SigLIP, since 4.52 in Gemma.
    (r"^vision_tower\.(?:vision_model\.)?", "visual."),
    (r"^multi_modal_projector\.", "visual.projector."),
    (r"^language_model\.model\.", "language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)

# A retriever has neither a language head nor SigLIP's pooling head; some old files store what is computed.
UNUSED = r"lm_head\.weight|visual\.head\..*|visual\.embeddings\.position_ids|.*\.rotary_emb\.inv_freq"


def canonical(name: str) -> str:
    """Return the tower's name for a stored weight; a name that no rule knows stays as it is."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
