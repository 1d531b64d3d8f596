"""The abilities of a retriever, and the refusal of everything beyond them, before anything is sent."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from periscope_client import _contract
from periscope_client._contract import Output
from periscope_client._errors import InvalidInput, MissingVectors, UnknownModel
from periscope_client._limits import NO_LIMITS, Limits

# The subject of a call, as messages say it.
_FOR = {"text": "texts", "image": "images", "video": "videos", "rerank": "reranking"}


@dataclass(frozen=True)
class RetrieverInfo:
    """A served retriever.

    model: its name on the server.
    fingerprint: of weights, recipe and precision.
    recipe: the recipe's name.
    late_width: K of its late vectors [T, K]; None where it has none.
    dense_width: D of its dense vectors [N, D]; None where it has none.
    accepts: what it embeds, of "text", "image" and "video"; nothing where it only reranks.
    fused: what it embeds together with a text, of "image" and "video".
    instructions: what it takes an instruction for, of `accepts` and "rerank".
    tasks: likewise, for a task of the recipe by its name: an instruction, an adapter, or both.
    dimensions: the least and the most that `dimensions` of a dense vector may be; None where it has one width only.
    queries, candidates: what `rerank` takes as its query and as documents, of "text", "image" and "video".
    max_candidates: the most documents of one request to rerank (longer lists are cut); None where it does not rerank.
    limits: what one item may cost; larger ones are refused before they are sent, pages of a PDF rendered within them.
    several_images: whether an item of `embed_image` may have several images.
    """

    model: str
    fingerprint: str
    recipe: str
    late_width: int | None
    dense_width: int | None
    accepts: tuple[str, ...]
    fused: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    dimensions: tuple[int, int] | None = None
    queries: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    max_candidates: int | None = None
    limits: Limits = NO_LIMITS
    several_images: bool = False

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The vectors that it has, of "late" and "dense"."""
        widths: dict[Output, int | None] = {"late": self.late_width, "dense": self.dense_width}
        return tuple(output for output, width in widths.items() if width is not None)

    @property
    def reranks(self) -> bool:
        """Whether it has `rerank`."""
        return self.max_candidates is not None


def choose_outputs(info: RetrieverInfo, outputs: Iterable[Output] | None) -> tuple[Output, ...]:
    """`outputs`, or all that the retriever has. Raises: MissingVectors when it lacks one, ValueError, TypeError."""
    if outputs is None:
        return info.outputs
    if isinstance(outputs, str):
        raise TypeError(f"outputs is a collection: for {outputs} vectors alone write outputs=[{outputs!r}]")
    chosen = tuple(dict.fromkeys(outputs))
    if not chosen or not set(chosen) <= _contract.TENSORS.keys():
        raise ValueError(f"outputs holds 'late', 'dense' or both, not {list(chosen)}")
    for output in chosen:
        if output not in info.outputs:
            raise MissingVectors(
                f"{_called(info)} has no {output} vectors, only {info.outputs[0]} ones. "
                f"Ask for those, or serve a checkpoint whose recipe has the output {output!r}."
            )
    return chosen


def choose_width(info: RetrieverInfo, outputs: Sequence[Output], dimensions: int | None) -> int | None:
    """The width of the dense vectors of a call; None where it has none.

    Raises: MissingVectors when the retriever has no dense vectors so wide, ValueError, TypeError.
    """
    if dimensions is None or info.dense_width is None:
        if dimensions is not None:
            raise MissingVectors(
                f"{_called(info)} has no dense vectors, whose width `dimensions` would be. Leave it out."
            )
        return info.dense_width if "dense" in outputs else None
    if "dense" not in outputs:
        raise ValueError("dimensions is the width of dense vectors, and outputs leaves them out")
    smallest, full = info.dimensions or (info.dense_width, info.dense_width)
    width = operator.index(dimensions)
    if not smallest <= width <= full:
        there_is = f"{smallest} to {full}" if smallest < full else f"{full} only"
        raise MissingVectors(
            f"{_called(info)} has no dense vectors of {width} dimensions: it has {there_is}. Ask for those."
        )
    return width


def model_names(info: RetrieverInfo) -> list[str]:
    """The models on the server that this was read from."""
    patterns = [_contract.EMBEDDING_MODELS[kind] for kind in info.accepts] + [_contract.RERANK] * info.reranks
    return [pattern.format(retriever=info.model) for pattern in patterns]


def lacking(info: RetrieverInfo, known: RetrieverInfo) -> list[str]:
    """The models that `known` was read from and `info` was not."""
    return [name for name in model_names(known) if name not in model_names(info)]


def require_kind(info: RetrieverInfo, kind: str) -> None:
    """Raises: UnknownModel unless the retriever embeds texts, images or videos."""
    if kind not in info.accepts:
        only = f"only {_listed(info.accepts)}" if info.accepts else "it only reranks"
        raise UnknownModel(f"the retriever {info.model!r} does not embed {_FOR[kind]}, {only}")


def require_rerank(info: RetrieverInfo) -> None:
    """Raises: UnknownModel unless the retriever has a model that reranks."""
    if not info.reranks:
        raise UnknownModel(
            f"the retriever {info.model!r} does not rerank, it only embeds {_listed(info.accepts)}. Embed query and "
            "documents and compare their vectors, or serve a checkpoint whose recipe has the output 'rerank'."
        )


def require_content(info: RetrieverInfo, kinds: Iterable[str], accepted: Sequence[str], place: str) -> None:
    """Raises: InvalidInput unless all kinds are among those that `rerank` accepts in that place."""
    for kind in kinds:
        if kind not in accepted:
            raise InvalidInput(f"{_called(info)} takes no {_FOR[kind]} as {place}, only {_listed(accepted)}")


def require_several(info: RetrieverInfo) -> None:
    """Raises: InvalidInput unless the retriever takes several images in one item."""
    if not info.several_images:
        raise InvalidInput(f"{_called(info)} takes one image an item. Embed them as items of their own.")


def require_option(info: RetrieverInfo, option: str, kind: str, offered: Sequence[str]) -> None:
    """Raises: InvalidInput unless the retriever takes the option ("task for {}") for that kind, or for reranking."""
    if kind not in offered:
        only = f", only {option.partition(' ')[2].format(_listed(offered))}" if offered else ""
        raise InvalidInput(
            f"{_called(info)} takes no {option.format(_FOR[kind])}{only}. "
            "Leave it out, or serve a checkpoint whose recipe has it."
        )


def _called(info: RetrieverInfo) -> str:
    return f"the retriever {info.model!r} (recipe {info.recipe!r})"


def _listed(kinds: Sequence[str]) -> str:
    """Kinds as a sentence lists them."""
    *others, last = [_FOR[kind] for kind in kinds] or ["nothing"]
    return f"{', '.join(others)} and {last}" if others else last
