"""How visual tokens leave a vision tower, and enter a language model: over the embeddings of its image token.

B items, G rows of images of an item, M visual tokens of such a row, T tokens, V visual tokens of an item, W their
width, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def place(visual_tokens_BVH: Tensor, embeddings_BTH: Tensor, is_image_BT: Tensor) -> Tensor:
    """Return [B, T, H]: the n-th image token of a row takes that row's n-th visual token, text keeps its embedding.

    A gather from [visual tokens, text embeddings]. Unlike a scatter it exports to one operator, and it holds when there
    is no visual token at all (V = 0).
    """
    rows_BVTH = torch.cat((visual_tokens_BVH, embeddings_BTH), dim=1)
    image_row_BT = is_image_BT.to(torch.int64).cumsum(1) - 1
    text_row_BT = torch.arange(is_image_BT.shape[1], device=is_image_BT.device) + visual_tokens_BVH.shape[1]
    row_BT = torch.where(is_image_BT, image_row_BT, text_row_BT)
    return rows_BVTH.gather(1, row_BT.unsqueeze(-1).expand(-1, -1, embeddings_BTH.shape[2]))


def in_order(tokens_BGMW: Tensor, visual_index: Tensor) -> Tensor:
    """Return [B, V, W]: of an item's G * M tokens those that int32 `visual_index` [B, V] names."""
    tokens_BNW = tokens_BGMW.flatten(1, 2)
    items, places = tokens_BNW.shape[:2]
    begins_B1 = torch.arange(items, device=visual_index.device).unsqueeze(1) * places
    return functional.embedding(visual_index + begins_B1, tokens_BNW.flatten(0, 1))
