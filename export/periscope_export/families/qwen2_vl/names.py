"""Weight names of a Qwen2-VL: every layout in the wild to the one that the towers use.

`visual.*` and `language_model.*`, as the modules of transformers >= 4.52 are called inside the model.
"""

from __future__ import annotations

import re

_RULES = (
    # The whole model inside a retriever of transformers: vlm.*
    (r"^vlm\.", ""),
    # New modules, with and without the outer model.
    (r"^model\.(visual|language_model)\.", r"\1."),
    (r"^language_model\.model\.", "language_model."),
    # The published files: model.layers.*, and the same from a retriever that is the inner model.
    (r"^(?:model\.)?(layers|embed_tokens|norm)\.", r"language_model.\1."),
)

# The language head is not part of a retriever; rotary frequencies are computed, some old files store them.
UNUSED = r"lm_head\.weight|.*\.(rotary_emb|rotary_pos_emb)\.inv_freq"


def canonical(name: str) -> str:
    """Return the tower's name for a stored weight; a name that no rule knows stays as it is."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
