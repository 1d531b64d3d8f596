"""What the server says about a retriever, read from the configuration of its embedding models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from periscope_client import _contract
from periscope_client._contract import Output
from periscope_client._errors import (
    FingerprintMismatch,
    MissingVectors,
    RequestError,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._transport import Transport


@dataclass(frozen=True)
class RetrieverInfo:
    """A served retriever.

    model: its name on the server.
    fingerprint: of weights, recipe and precision; recipe: the recipe's name.
    late_width: K of its late vectors [T, K], dense_width: D of its dense vectors [N, D]; None where it has none.
    accepts: what it embeds, of "text" and "image".
    """

    model: str
    fingerprint: str
    recipe: str
    late_width: int | None
    dense_width: int | None
    accepts: tuple[str, ...]

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The vectors that it has, of "late" and "dense"."""
        widths: dict[Output, int | None] = {"late": self.late_width, "dense": self.dense_width}
        return tuple(output for output, width in widths.items() if width is not None)


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
                f"the retriever {info.model!r} (recipe {info.recipe!r}) has no {output} vectors, only "
                f"{info.outputs[0]} ones. Ask for those, or serve a checkpoint whose recipe has the output {output!r}."
            )
    return chosen


async def read_info(transport: Transport, retriever: str, address: str) -> RetrieverInfo:
    """Ask the server. Raises: UnknownModel naming what there is, UnexpectedAnswer, FingerprintMismatch."""
    described: dict[str, RetrieverInfo] = {}
    for pattern, kind in ((_contract.EMBED_TEXT, "text"), (_contract.EMBED_IMAGE, "image")):
        name = pattern.format(retriever=retriever)
        try:
            config = await transport.config(name)
        except UnknownModel:
            continue
        described[kind] = _describe(retriever, name, config)
    if not described:
        raise await _unknown(transport, retriever, address)
    first, *others = described.values()
    for other in others:
        if other != first:
            raise FingerprintMismatch(
                f"the server at {address} embeds texts and images of {retriever!r} with different weights "
                f"(fingerprints {first.fingerprint} and {other.fingerprint}). Export the retriever again as one."
            )
    return RetrieverInfo(
        retriever, first.fingerprint, first.recipe, first.late_width, first.dense_width, tuple(described)
    )


def _describe(retriever: str, name: str, config: dict[str, Any]) -> RetrieverInfo:
    parameters = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
    missing = [key for key in (_contract.FINGERPRINT, _contract.RECIPE) if not parameters.get(key)]
    if missing:
        raise UnexpectedAnswer(
            f"the model {name!r} lacks the parameter {missing[0]!r}, so nothing says which weights its vectors are of. "
            "Serve a repository written by `periscope export`."
        )
    # gRPC's JSON writes 64-bit integers as strings.
    widths = {output["name"]: int(output["dims"][-1]) for output in config.get("output", [])}
    if _contract.LATE in widths and _contract.LATE_MASK not in widths:
        raise UnexpectedAnswer(f"the model {name!r} gives late vectors without the mask that tells them from padding")
    if not widths.keys() & {_contract.LATE, _contract.DENSE}:
        raise UnexpectedAnswer(f"the model {name!r} gives neither late nor dense vectors")
    return RetrieverInfo(
        model=retriever,
        fingerprint=parameters[_contract.FINGERPRINT],
        recipe=parameters[_contract.RECIPE],
        late_width=widths.get(_contract.LATE),
        dense_width=widths.get(_contract.DENSE),
        accepts=(),
    )


async def _unknown(transport: Transport, retriever: str, address: str) -> UnknownModel:
    """The error that names the retrievers which the server does have."""
    try:
        models = await transport.models()
    except RequestError as error:  # operators may close the model index to clients
        there_is = f"The server does not tell which it has ({error.message})"
    else:
        names = _contract.retriever_names(models)
        if names:
            there_is = f"It has {', '.join(map(repr, names))}"
        else:
            there_is = f"It has none at all, only these models: {', '.join(sorted(models)) or 'none'}"
    return UnknownModel(
        f"the server at {address} has no retriever {retriever!r}. {there_is}. "
        "Correct the name, or serve a repository that contains it."
    )
