"""Weight names of a jina-clip: every layout in the wild to the one that the towers use.

`vision_model.*` and `text_model.*`. The text tower's names are those of jinaai/jina-bert-flash-implementation; the
older jinaai/jina-bert-implementation calls the same weights as BERT does (source: the former's convert_v2_weights.py).
"""

from __future__ import annotations

import re

_RULES = (
    (r"^text_model\.transformer\.(bert\.)?", "text_model."),
    # Two biases that are stored beside their projections.
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
    (r"^(text_model\.encoder\.)layer\.", r"\1layers."),
    (r"^(text_model\.)embeddings\.LayerNorm\.", r"\1emb_ln."),
    (r"^(text_model\.encoder\.layers\.\d+\.)attention\.self\.", r"\1mixer."),
    (r"^(text_model\.encoder\.layers\.\d+\.)attention\.output\.dense\.", r"\1mixer.out_proj."),
    (r"^(text_model\.encoder\.layers\.\d+\.)attention\.output\.LayerNorm\.", r"\1norm1."),
    (r"^(text_model\.encoder\.layers\.\d+\.)mlp\.layernorm\.", r"\1norm2."),
)

# Rotary tables are computed; a pooler and a classifier are parts of the towers' code that jina-clip does without.
UNUSED = (
    r"logit_scale|vision_model\.(blocks\.\d+\.attn\.)?rope\..*|vision_model\.head\..*|text_model\.pooler\..*"
    r"|text_model\.embeddings\.(position_ids|token_type_ids)"
)


def canonical(name: str) -> str:
    """Return the tower's name for a stored weight; a name that no rule knows stays as it is."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name
