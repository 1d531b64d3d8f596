"""Heads against loops."""

from __future__ import annotations

import numpy as np
import torch

from periscope_export.heads import DenseHead


def slow_dense(states: list[list[list[float]]], mask: list[list[int]]) -> list[list[float]]:
    rows = []
    for row, keep in zip(states, mask, strict=True):
        kept = [state for state, kept in zip(row, keep, strict=True) if kept]
        mean = [sum(column) / len(kept) for column in zip(*kept, strict=True)]
        length = sum(value * value for value in mean) ** 0.5
        rows.append([value / length for value in mean])
    return rows


def test_the_dense_vector_is_the_normalised_mean_of_the_kept_states() -> None:
    states_BTH = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))
    mask_BT = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1]], dtype=torch.int32)
    wanted = slow_dense(states_BTH.tolist(), mask_BT.tolist())
    np.testing.assert_allclose(DenseHead()(states_BTH, mask_BT), wanted, rtol=0, atol=1e-6)


def test_what_stands_in_the_padding_never_counts() -> None:
    states_BTH = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(2))
    mask_BT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.int32)
    wanted_BH = DenseHead()(states_BTH, mask_BT)
    for rubbish in (1e30, float("inf"), float("nan")):
        torch.testing.assert_close(
            DenseHead()(states_BTH.masked_fill(mask_BT.unsqueeze(-1) == 0, rubbish), mask_BT), wanted_BH
        )
