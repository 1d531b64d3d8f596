"""Visual tokens among the embeddings of a text, against a loop.

B items, T tokens, V visual tokens of an item, W their width, H hidden width.
"""

from __future__ import annotations

import pytest
import torch

from periscope_export.models.visual_tokens import in_order, place

H = 3


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("visual", [0, 4])
def test_the_nth_image_token_takes_the_nth_visual_token(visual: int, levels: int) -> None:
    torch.manual_seed(0)
    visual_BVW, texts_BTH = torch.randn(2, visual, H * (1 + levels)), torch.randn(2, 7, H)
    is_image_BT = torch.zeros(2, 7, dtype=torch.bool)
    # The second item has fewer visual tokens than there is room for.
    is_image_BT[0, [1, 2, 3, 5][:visual]] = True
    is_image_BT[1, [0, 4][:visual]] = True

    found_BTH, found_levels = place(visual_BVW, texts_BTH, is_image_BT)

    wanted_BTW = torch.cat((texts_BTH, torch.zeros(2, 7, levels * H)), dim=-1)
    for item in range(2):
        for nth, token in enumerate(is_image_BT[item].nonzero().flatten()):
            wanted_BTW[item, token] = visual_BVW[item, nth]
    assert len(found_levels) == levels
    assert torch.equal(torch.cat((found_BTH, *found_levels), dim=-1), wanted_BTW)


def test_visual_tokens_leave_in_the_order_of_their_index() -> None:
    tokens_BGMW = torch.randn(2, 3, 4, H)
    index_BV = torch.tensor([[0, 5, 11], [7, 7, 1]], dtype=torch.int32)
    wanted_BVW = torch.stack([tokens_BGMW[item].flatten(0, 1)[index_BV[item].long()] for item in range(2)])
    assert torch.equal(in_order(tokens_BGMW, index_BV), wanted_BVW)
