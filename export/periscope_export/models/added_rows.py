"""Embeddings of the tokens that published code adds to the tokenizer when it runs.

`resize_token_embeddings` of transformers draws the row of a new token around the mean of all rows before it; where the
table has one for a token, it stays. R some rows of a table, V all, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from periscope_export.checkpoint.reading import TensorInfo, Weights
from periscope_export.checkpoint.tokens import read_tokenizer
from periscope_export.errors import ExportError

# Rows that are summed at a time, in float64.
_CHUNK = 4096


def with_added_rows(
    weights: Weights, added: Sequence[str], mean: Sequence[str], tables: Sequence[str], tokenizer: Path
) -> tuple[Weights, list[str]]:
    """Return the weights with the rows of `added` tokens, and a line for each that the tokenizer has already.

    The rows of those in `mean` become the mean of all before them, in the order of their ids and in each of `tables`,
    the canonical names of the table of embeddings and of the language head, that the checkpoint has. A token that the
    tokenizer has already keeps its row: both were saved together, and the published code refuses such a tokenizer.
    Raises `ExportError` for a table that has no row for one.
    """
    if not added:
        return weights, []
    plain, whole = (read_tokenizer(tokenizer, tokens).get_vocab(with_added_tokens=True) for tokens in ((), added))
    ids, known = {token: whole[token] for token in added}, [token for token in added if token in plain]
    made = sorted(ids[token] for token in mean if token not in known)
    for name in set(tables) & set(weights.keys()):
        info, called = weights.info(name), weights.stored_name(name)
        if beyond := [f"{token!r} ({row})" for token, row in ids.items() if row >= info.shape[0]]:
            raise ExportError(
                f"checkpoint: {called} has {info.shape[0]} rows, and none for tokens that are added to its tokenizer: "
                f"{', '.join(beyond)}. It was cut to its tokenizer when it was saved: give the checkpoint as it was "
                "published, or the tokenizer.json that was saved with the tokens in it."
            )
        if made:
            read = partial(_with_means, weights, name, made)
            weights = weights.having(name, TensorInfo(info.shape, torch.float32), read, called)
    lines = [f"tokenizer.json has {token} already: its embedding is the checkpoint's" for token in known]
    return weights, lines


def _with_means(weights: Weights, name: str, ids: Sequence[int]) -> torch.Tensor:
    """Return float32 [V, H]: a table in which each of these rows, ascending, is the mean of all before it."""
    # A copy: what is read may be a view of the file.
    table_VH = weights.read(name).to(torch.float32, copy=True)
    sum_H, summed = torch.zeros(table_VH.shape[1], dtype=torch.float64), 0
    for row in ids:
        for rows_RH in table_VH[summed:row].split(_CHUNK):
            sum_H += rows_RH.to(torch.float64).sum(0)
        table_VH[row], summed = sum_H / row, row
    return table_VH
