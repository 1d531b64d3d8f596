"""The losses: what each patch shows, what each token means, and which page answers which query.

B pages, Q queries, T query tokens, S page tokens, V visual tokens, K late dimensions, H hidden, Z letters, Y classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from periscope_demo.training.batches import Batch
from periscope_demo.training.model import Pages, TrainedRetriever, Vectors
from periscope_demo.training.targets import NO_TERM

# "No term" is what most of a page shows; it counts this much beside a term.
_NO_TERM_WEIGHT = 0.3


def losses(model: TrainedRetriever, batch: Batch, contrast: bool) -> dict[str, Tensor]:
    """Return every loss of a batch by its name in `stage.Weights`; those that contrast pages only when asked."""
    pages, queries = model.pages(batch), model.queries(batch)
    visual = _visual(model, batch)
    found = {
        "letters": functional.binary_cross_entropy_with_logits(
            pages.letters_BPZ, batch["letters_BPZ"], pos_weight=torch.tensor(4.0)
        ),
        "visual_terms": _divided(pages.terms_BVY, batch["terms_BVY"]),
        "late_terms": _divided(model.terms(pages.vectors.late_BTK[:, visual]), batch["terms_BVY"]),
        "query_terms": functional.cross_entropy(
            model.terms(queries.late_BTK).flatten(0, 1), batch["query_classes_QT"].flatten(), ignore_index=-100
        ),
        "dense_terms": _dense_terms(model, pages, queries, batch),
    }
    if contrast:
        relevant_QB = batch["relevant_QB"]
        scale = {name: parameter.exp() for name, parameter in model.log_scales.items()}
        scores_QB = maxsim(queries, pages.vectors, batch["query_mask_QT"])
        found["maxsim"] = _contrast(scale["maxsim"] * scores_QB, relevant_QB)
        found["dense"] = _contrast(scale["dense"] * queries.dense_BH @ pages.vectors.dense_BH.T, relevant_QB)
    return found


def maxsim(queries: Vectors, pages: Vectors, query_mask_QT: Tensor) -> Tensor:
    """Return [Q, B]: the best page token for each query token, summed. Pages are not padded."""
    similarities_QTBS = torch.einsum("qtk,bsk->qtbs", queries.late_BTK, pages.late_BTK)
    return (similarities_QTBS.amax(-1) * query_mask_QT.unsqueeze(-1)).sum(1)


def accuracy(model: TrainedRetriever, batch: Batch) -> dict[str, float]:
    """Return how many word-bearing visual tokens are read right, and how often each output ranks a right page first."""
    pages, queries = model.pages(batch), model.queries(batch)
    wanted_BVY = batch["terms_BVY"]
    read_BV = model.terms(pages.vectors.late_BTK[:, _visual(model, batch)]).argmax(-1)
    shown_BV = wanted_BVY[..., NO_TERM] == 0
    right_BV = wanted_BVY.gather(-1, read_BV.unsqueeze(-1)).squeeze(-1) > 0
    scores = {
        "late@1": maxsim(queries, pages.vectors, batch["query_mask_QT"]),
        "dense@1": queries.dense_BH @ pages.vectors.dense_BH.T,
    }
    firsts = {
        name: float(batch["relevant_QB"].gather(1, scores_QB.argmax(1, keepdim=True)).mean())
        for name, scores_QB in scores.items()
    }
    return {"read": float(right_BV[shown_BV].float().mean()), **firsts}


def _visual(model: TrainedRetriever, batch: Batch) -> slice:
    """Return where the visual tokens of a page stand among its tokens."""
    first = int((batch["page_ids_BT"][0] == model.language_model.image_token_id).nonzero()[0])
    return slice(first, first + batch["terms_BVY"].shape[1])


def _divided(logits_BVY: Tensor, targets_BVY: Tensor) -> Tensor:
    weight_BV = torch.where(targets_BVY[..., NO_TERM] > 0, _NO_TERM_WEIGHT, 1.0)
    loss_BV = -(targets_BVY * logits_BVY.log_softmax(-1)).sum(-1)
    return (loss_BV * weight_BV).sum() / weight_BV.sum()


def _dense_terms(model: TrainedRetriever, pages: Pages, queries: Vectors, batch: Batch) -> Tensor:
    """Ask dense vectors for all their terms: a softmax over the classes, divided among those that are there."""
    helper = model.helpers["dense_terms"]
    total = torch.zeros(())
    for dense_BH, terms_BY in (
        (pages.vectors.dense_BH, batch["page_terms_BY"]),
        (queries.dense_BH, batch["query_terms_QY"]),
    ):
        targets_BY = terms_BY / terms_BY.sum(-1, keepdim=True).clamp(min=1)
        total = total - (targets_BY * helper(16 * dense_BH).log_softmax(-1)).sum(-1).mean()
    return total


def _contrast(logits_QB: Tensor, relevant_QB: Tensor) -> Tensor:
    targets_QB = relevant_QB / relevant_QB.sum(-1, keepdim=True)
    return -(targets_QB * logits_QB.log_softmax(-1)).sum(-1).mean()
