"""ColQwen2's dense vector, where it is unlike the others: a mean over all tokens of an item."""

from __future__ import annotations

import numpy as np
import pytest

from contract.items import PAGES
from contract.servers import Servers
from contract.tolerances import MISTAKE
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.reference import Item


@pytest.mark.parametrize("item", [Item("a b"), Item(image=PAGES[0])], ids=["text", "image"])
def test_a_mean_of_one_token_fewer_is_far_away(servers: Servers, item: Item) -> None:
    reference = servers.of("second").reference
    assert isinstance(reference, ColQwen2Reference)
    inputs = reference.inputs(item)
    mask_BT = inputs["attention_mask"].clone()
    mask_BT[:, 0] = 0
    ((_, dense_H),), ((_, short_H),) = (
        reference.late_and_dense({**inputs, "attention_mask": mask}) for mask in (inputs["attention_mask"], mask_BT)
    )
    assert np.abs(dense_H - short_H).max() > MISTAKE
