"""What a reranker's score is made of: the difference of two tokens' rows in the language head.

H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from periscope_export.checkpoint import Checkpoint, TensorInfo, Weights
from periscope_export.errors import ExportError
from periscope_export.recipe import RerankOutput

DIRECTION = "rerank_head.direction"


def with_direction(
    checkpoint: Checkpoint,
    output: RerankOutput,
    language_head: Callable[[Mapping[str, Any]], str] | None,
    tokenizer: Path,
) -> Checkpoint:
    """Return the checkpoint with a weight more: float32 [H], the positive token's row less the negative one's.

    Raises `ExportError` for a backbone or a checkpoint without a language head, and for tokens that are not in the
    tokenizer.
    """
    if language_head is None or (name := language_head(checkpoint.config)) not in set(checkpoint.weights.keys()):
        raise ExportError(
            "checkpoint: there is no language head, so nothing scores pairs. "
            "Export it with the recipe of its own system."
        )
    vocabulary = Tokenizer.from_file(str(tokenizer))
    rows, width = checkpoint.weights.info(name).shape
    # No id: a row that cannot be.
    found = {token: vocabulary.token_to_id(token) for token in (output.positive, output.negative)}
    ids = {token: rows if row is None else row for token, row in found.items()}
    if unknown := [token for token, row in ids.items() if row >= rows]:
        raise ExportError(
            f"checkpoint: tokenizer.json has no token {', '.join(map(repr, unknown))}, which the score is made of. "
            "Use the tokenizer that the checkpoint was published with."
        )
    read = partial(_direction, checkpoint.weights, name, *ids.values())
    weights = checkpoint.weights.having(DIRECTION, TensorInfo((width,), torch.float32), read)
    return replace(checkpoint, weights=weights)


def _direction(weights: Weights, name: str, positive: int, negative: int) -> torch.Tensor:
    # Not in the checkpoint's own precision, in which the published code subtracts: that rounds by up to 1e-2.
    head_VH = weights.read(name)
    return head_VH[positive].to(torch.float32) - head_VH[negative].to(torch.float32)
