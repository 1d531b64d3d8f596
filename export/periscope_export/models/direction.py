"""The weight of a reranker's score: the difference of two tokens' rows in the language head.

H hidden width.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from tokenizers import Tokenizer

from periscope_export.checkpoint.reading import Checkpoint, TensorInfo, Weights
from periscope_export.errors import ExportError

DIRECTION = "rerank_head.direction"


def with_direction(
    checkpoint: Checkpoint, tokens: tuple[str, str], language_head: str | None, tokenizer: Tokenizer
) -> Checkpoint:
    """Return the checkpoint with a weight more: float32 [H], the row of the first of two tokens less the second's.

    `language_head` is the canonical name of the weight whose rows score tokens, None for a backbone without one. Raises
    `ExportError` where there is none, in the backbone or in the checkpoint, and for tokens that are not in the
    tokenizer.
    """
    if language_head is None or language_head not in set(checkpoint.weights.keys()):
        raise ExportError(
            "checkpoint: there is no language head, so nothing scores pairs: no lm_head.weight is stored, and "
            "config.json does not say that it is the table of embeddings (tie_word_embeddings). "
            "Export it with the recipe of its own system."
        )
    rows, width = checkpoint.weights.info(language_head).shape
    # No id: a row that cannot be.
    found = {token: tokenizer.token_to_id(token) for token in tokens}
    ids = {token: rows if row is None else row for token, row in found.items()}
    if unknown := [token for token, row in ids.items() if row >= rows]:
        raise ExportError(
            f"checkpoint: tokenizer.json has no token {', '.join(map(repr, unknown))}, which the score is made of. "
            "Use the tokenizer that the checkpoint was published with."
        )
    read = partial(_direction, checkpoint.weights, language_head, *ids.values())
    known_as = f"{checkpoint.weights.stored_name(language_head)} ({' less '.join(map(repr, ids))})"
    weights = checkpoint.weights.having(DIRECTION, TensorInfo((width,), torch.float32), read, known_as)
    return replace(checkpoint, weights=weights)


def _direction(weights: Weights, name: str, positive: int, negative: int) -> torch.Tensor:
    # Not in the checkpoint's own precision, in which the published code subtracts: that rounds by up to 1e-2.
    head_VH = weights.read(name)
    return head_VH[positive].to(torch.float32) - head_VH[negative].to(torch.float32)
