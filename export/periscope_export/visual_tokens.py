"""How visual tokens enter a language model: over the embeddings of its image token.

B rows, T tokens, V visual tokens, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
