"""Heads: what is made of the towers' last states (late vectors, a dense vector, a score), and MaxSim.

Vectors are float32 in every precision: they are what is stored and compared.

B rows, T query or document tokens, H hidden, K dimensions of a late vector, D of a dense one,
Q queries, N documents, S document tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.layers import Linear
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.models.task_adapters import Choice
from periscope_export.recipes.schema import Activation, DenseLayer, ScoreLayer
from periscope_runtime.paths import RERANK, SEARCH, ItemPath


class LateHead(nn.Module):
    """Late interaction: project every token, normalise to length 1, zero the padding.

    Without a `dimension` there is no projection, and vectors are whole states.
    """

    def __init__(self, hidden: int, dimension: int | None) -> None:
        super().__init__()
        self.projection = nn.Identity() if dimension is None else Linear(hidden, dimension)
        self.choice: Choice | None = None

    def forward(self, hidden_states: Tensor, late_mask: Tensor, *, adapter_index: Tensor | None = None) -> Tensor:
        """Map [B, T, H] and int [B, T] to [B, T, K].

        `adapter_index` int32 [B, 1] says which adapter counts for a row, where the projection has those of several
        tasks.
        """
        chosen = [] if self.choice is None else [self.choice(adapter_index, hidden_states.dtype)]
        vectors_BTK = functional.normalize(self.projection(hidden_states, *chosen).to(torch.float32), dim=-1)
        return torch.where(late_mask.unsqueeze(-1) > 0, vectors_BTK, 0.0)


def pooled(hidden_states: Tensor, pool_mask: Tensor) -> Tensor:
    """Map [B, T, H] and int [B, T] to [B, H] in float32: the mean of the states that the mask keeps.

    States where the mask is 0 never count, whatever they hold.
    """
    kept_BT1 = pool_mask.unsqueeze(-1) > 0
    total_BH = torch.where(kept_BT1, hidden_states.to(torch.float32), 0.0).sum(1)
    return total_BH / kept_BT1.sum(1).clamp(min=1)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class ActivatedLinear(Linear):
    """A linear layer and an activation, in float32 whatever the weights are: it makes vectors."""

    def __init__(self, inputs: int, outputs: int, bias: bool, activation: Activation) -> None:
        super().__init__(inputs, outputs, bias)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map [..., I] to [..., O]."""
        y = x @ self.weight.to(torch.float32)
        return self.activation(y if self.bias is None else y + self.bias.to(torch.float32))


class DenseHead(nn.Module):
    """One vector a row: the mean of the states that the mask keeps, through the layers, normalised to length 1."""

    def __init__(self, layers: Sequence[DenseLayer] = ()) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(ActivatedLinear(layer.inputs, layer.outputs, layer.bias, layer.activation) for layer in layers)
        )

    def vector(self, hidden_states: Tensor, pool_mask: Tensor) -> Tensor:
        """Map [B, T, H] and int [B, T] to [B, D], of any length."""
        found: Tensor = self.layers(pooled(hidden_states, pool_mask))
        return found

    def forward(self, hidden_states: Tensor, pool_mask: Tensor) -> Tensor:
        """Map [B, T, H] and int [B, T] to [B, D]."""
        return functional.normalize(self.vector(hidden_states, pool_mask), dim=-1)


class MatryoshkaHead(DenseHead):
    """A dense vector of which some columns are kept, and normalised to length 1."""

    def forward(self, hidden_states: Tensor, pool_mask: Tensor, dense_columns: Tensor) -> Tensor:  # type: ignore[override]
        """Map [B, T, H], int [B, T] and int [B, D], the columns, to [B, D]."""
        kept_BD = self.vector(hidden_states, pool_mask).gather(1, dense_columns.to(torch.int64))
        return functional.normalize(kept_BD, dim=-1)


class ScoreHead(nn.Module):
    """The probability that a document answers a query: the sigmoid of a number that is made of the pooled state."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def logit(self, states_BH: Tensor) -> Tensor:
        """Map float32 [B, H] to [B, 1]."""
        raise NotImplementedError

    def forward(self, hidden_states: Tensor, pool_mask: Tensor) -> Tensor:
        """Map [B, T, H] and int [B, T] to [B, 1]; not a number for a row of which the mask keeps nothing."""
        logit_B1 = self.logit(pooled(hidden_states, pool_mask)) + self.offset
        return torch.where(pool_mask.sum(1, keepdim=True) > 0, logit_B1.sigmoid(), float("nan"))


class RerankHead(ScoreHead):
    """The likelihood of one token as the next over another. Source: Qwen3-VL-Embedding `compute_scores`.

    `direction` is the difference of their rows in the language head.
    """

    def __init__(self, hidden: int, offset: float = 0) -> None:
        super().__init__(offset)
        self.direction = nn.Parameter(torch.empty(hidden))

    def logit(self, states_BH: Tensor) -> Tensor:
        """Map float32 [B, H] to [B, 1]."""
        return (states_BH * self.direction.to(torch.float32)).sum(-1, keepdim=True)


class MlpRerankHead(ScoreHead):
    """A score that layers of the checkpoint's own make of a state. Source: jina-reranker-m0 `JinaVLForRanking`.

    `widths` has one more entry than there are layers: what the first takes, then what each gives, the last 1.
    """

    def __init__(self, widths: Sequence[int], layers: Sequence[ScoreLayer], offset: float) -> None:
        super().__init__(offset)
        self.layers = nn.Sequential(
            *(
                ActivatedLinear(inputs, outputs, layer.bias, layer.activation)
                for inputs, outputs, layer in zip(widths, widths[1:], layers, strict=False)
            )
        )

    def logit(self, states_BH: Tensor) -> Tensor:
        """Map float32 [B, H] to [B, 1]."""
        return self.layers(states_BH)


class MaxSim(nn.Module):
    """Score of a query and a document: the best document token for each query token, summed. arXiv 2004.12832."""

    def forward(self, query_late: Tensor, query_mask: Tensor, document_late: Tensor, document_mask: Tensor) -> Tensor:
        """Map [Q, T, K], int [Q, T], [N, S, K], int [N, S] to scores [Q, N]; padding never counts."""
        queries, tokens, _ = query_late.shape
        documents, document_tokens, _ = document_late.shape
        # One large product instead of Q x N small ones.
        similarities = query_late.flatten(0, 1) @ document_late.flatten(0, 1).transpose(0, 1)
        similarities_QTNS = similarities.reshape(queries, tokens, documents, document_tokens)
        best_QTN = similarities_QTNS.masked_fill(document_mask == 0, float("-inf")).amax(-1)
        return torch.where(query_mask.unsqueeze(-1) > 0, best_QTN, 0.0).sum(1)


def late_step(hidden: int, dimension: int | None, paths: tuple[ItemPath, ...]) -> Step:
    """Describe the late head over states of width `hidden`; `dimension` is that of vectors, None for whole states."""
    return Step(
        name="late_head",
        build=partial(LateHead, hidden, dimension),
        prefix=None if dimension is None else "late_head.",
        inputs=(
            TensorSpec("hidden_states", "float", ("B", "T", hidden)),
            TensorSpec("late_mask", "int32", ("B", "T")),
        ),
        outputs=(TensorSpec("late", "float32", ("B", "T", hidden if dimension is None else dimension)),),
        paths=paths,
    )


def dense_step(hidden: int, matryoshka: bool, paths: tuple[ItemPath, ...], layers: Sequence[DenseLayer] = ()) -> Step:
    """Describe the dense head over states of width `hidden`; a Matryoshka one is told which columns to keep."""
    columns = (TensorSpec("dense_columns", "int32", ("B", "D")),) if matryoshka else ()
    return Step(
        name="dense_head",
        build=partial(MatryoshkaHead if matryoshka else DenseHead, tuple(layers)),
        prefix="dense_head." if layers else None,
        inputs=(*_pooled_inputs(hidden), *columns),
        outputs=(TensorSpec("dense", "float32", ("B", "D" if matryoshka else dense_width(hidden, layers))),),
        paths=paths,
    )


def dense_width(hidden: int, layers: Sequence[DenseLayer]) -> int:
    """Return the width of a whole dense vector."""
    return layers[-1].outputs if layers else hidden


def rerank_step(hidden: int, build: Callable[[], ScoreHead]) -> Step:
    """Describe the head that judges pairs, over states of width `hidden`."""
    return Step(
        name="rerank_head",
        build=build,
        prefix="rerank_head.",
        inputs=_pooled_inputs(hidden),
        outputs=(TensorSpec("score", "float32", ("B", 1)),),
        paths=(RERANK,),
    )


def _pooled_inputs(hidden: int) -> tuple[TensorSpec, TensorSpec]:
    return TensorSpec("hidden_states", "float", ("B", "T", hidden)), TensorSpec("pool_mask", "int32", ("B", "T"))


def maxsim_step(dimension: int) -> Step:
    """Describe MaxSim over vectors of width `dimension`: all queries of a request with all its documents."""
    return Step(
        name="maxsim",
        build=MaxSim,
        prefix=None,
        inputs=(
            TensorSpec("query_late", "float32", ("Q", "T", dimension)),
            TensorSpec("query_mask", "int32", ("Q", "T")),
            TensorSpec("document_late", "float32", ("N", "S", dimension)),
            TensorSpec("document_mask", "int32", ("N", "S")),
        ),
        outputs=(TensorSpec("score", "float32", ("Q", "N")),),
        paths=(SEARCH,),
    )
