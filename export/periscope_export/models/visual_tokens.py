"""Visual tokens on their way out of a vision tower, and into a language model: over the embeddings of its image token.

B items, G rows of images of an item, M visual tokens of such a row, T tokens, V visual tokens of an item, W their
width, H hidden width, L levels that lie behind a visual token (W = H * (1 + L)), T or V rows that are taken of S.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def place(visual_tokens_BVW: Tensor, embeddings_BTH: Tensor, is_image_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return [B, T, H] and L times [B, T, H]: the n-th image token of a row takes that row's n-th visual token.

    Text keeps its embedding, and has zeros for levels. Whole rows are gathered from [parts of visual tokens, text
    embeddings, zeros]: engines do that by copying, and it holds when there is no visual token at all (V = 0).
    """
    items, tokens, width = embeddings_BTH.shape
    parts = visual_tokens_BVW.shape[2] // width
    visual_BSH = visual_tokens_BVW.unflatten(2, (parts, width)).flatten(1, 2)
    # A level of text is the last row.
    zeros = [embeddings_BTH.new_zeros(items, 1, width)] if parts > 1 else []
    rows_BSH = torch.cat((visual_BSH, embeddings_BTH, *zeros), dim=1)
    visual_row_BT = (is_image_BT.to(torch.int64).cumsum(1) - 1) * parts
    text_row_T = torch.arange(tokens, device=is_image_BT.device) + visual_BSH.shape[1]
    x_BTH = _take(rows_BSH, torch.where(is_image_BT, visual_row_BT, text_row_T))
    levels = [torch.where(is_image_BT, visual_row_BT + level, rows_BSH.shape[1] - 1) for level in range(1, parts)]
    return x_BTH, [_take(rows_BSH, row_BT) for row_BT in levels]


def in_order(tokens_BGMW: Tensor, visual_index: Tensor) -> Tensor:
    """Return [B, V, W]: of an item's G * M tokens those that int32 `visual_index` [B, V] names."""
    return _take(tokens_BGMW.flatten(1, 2), visual_index)


def _take(rows_BSH: Tensor, index_BT: Tensor) -> Tensor:
    """Return [B, T, H]: of each item the rows that its index names."""
    items, rows = rows_BSH.shape[:2]
    begins_B1 = torch.arange(items, device=index_BT.device).unsqueeze(1) * rows
    return functional.embedding(index_BT + begins_B1, rows_BSH.flatten(0, 1))
