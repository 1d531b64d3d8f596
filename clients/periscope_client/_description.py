"""Reading what a retriever has, from the configuration of its models on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from periscope_client import _contract
from periscope_client._errors import (
    AccessDenied,
    FingerprintMismatch,
    RequestError,
    RequestTimeout,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._info import RetrieverInfo
from periscope_client._limits import Limits
from periscope_client._transport import Transport

_MODELS = {**_contract.EMBEDDING_MODELS, "rerank": _contract.RERANK}
_QUERIES = {"text": _contract.QUERY_TEXT, "image": _contract.QUERY_IMAGE, "video": _contract.QUERY_VIDEO}
_CANDIDATES = {"text": _contract.TEXT, "image": _contract.IMAGE, "video": _contract.VIDEO}


class _Model(NamedTuple):
    """The configuration of one model.

    name: its name on the server.
    parameters: those that are texts.
    inputs: the last axis of each input, by its name; 1 where the configuration says none.
    widths: the last axis of each output.
    """

    name: str
    parameters: Mapping[str, str]
    inputs: Mapping[str, int]
    widths: Mapping[str, int]

    @property
    def fingerprint(self) -> str:
        return self.parameters[_contract.FINGERPRINT]


class _Vectors(NamedTuple):
    """Vectors of an embedding model.

    late, dense: their widths; None where it has none.
    dimensions: the least and the most that a dense vector may have.
    """

    late: int | None = None
    dense: int | None = None
    dimensions: tuple[int, int] | None = None


async def read_info(transport: Transport, retriever: str, address: str) -> RetrieverInfo:
    """Ask the server. Raises: UnknownModel naming what there is, UnexpectedAnswer, FingerprintMismatch."""
    names = [pattern.format(retriever=retriever) for pattern in _MODELS.values()]
    # All have ended before one's failure is raised, so that none goes on unseen.
    configs = await asyncio.gather(*map(transport.config, names), return_exceptions=True)
    models: dict[str, _Model] = {}
    for kind, name, config in zip(_MODELS, names, configs, strict=True):
        if isinstance(config, UnknownModel):
            continue
        if isinstance(config, BaseException):
            raise config
        models[kind] = _model(name, config)
    if not models:
        raise await _unknown(transport, retriever, address)
    first = next(iter(models.values()))
    seen = {kind: _vectors(model) for kind, model in models.items() if kind in _contract.EMBEDDING_MODELS}
    vectors = next(iter(seen.values()), _Vectors())
    for kind, other in models.items():
        if (other.fingerprint, seen.get(kind, vectors)) != (first.fingerprint, vectors):
            raise FingerprintMismatch(
                f"{first.name!r} and {other.name!r} on the server at {address} are of different weights (fingerprints "
                f"{first.fingerprint} and {other.fingerprint}). Export the retriever again as one."
            )

    def taking(name: str) -> tuple[str, ...]:
        return tuple(kind for kind, model in models.items() if name in model.inputs)

    rerank = models.get("rerank")
    offered = {} if rerank is None else rerank.inputs
    image = models.get("image")
    return RetrieverInfo(
        model=retriever,
        fingerprint=first.fingerprint,
        recipe=first.parameters[_contract.RECIPE],
        late_width=vectors.late,
        dense_width=vectors.dense,
        accepts=tuple(seen),
        fused=tuple(kind for kind in taking(_contract.TEXT) if kind in ("image", "video")),
        instructions=taking(_contract.INSTRUCTION),
        tasks=taking(_contract.TASK),
        dimensions=vectors.dimensions,
        queries=tuple(kind for kind, name in _QUERIES.items() if name in offered),
        candidates=tuple(kind for kind, name in _CANDIDATES.items() if name in offered),
        max_candidates=None if rerank is None else _number(rerank, _contract.MAX_CANDIDATES),
        limits=_limits(first),
        several_images=image is not None and image.inputs.get(_contract.IMAGE) == -1,
    )


async def retriever_names(transport: Transport, models: Sequence[str]) -> list[str]:
    """Sorted names of the retrievers among a server's models.

    A step's name may end as that of a model for callers does (R_preprocess_rerank); what callers use is an ensemble.
    """
    suffixes = [pattern.format(retriever="") for pattern in _MODELS.values()]
    named = [(model, suffix) for model in models for suffix in suffixes if model.endswith(suffix)]
    configs = await asyncio.gather(*(transport.config(model) for model, _ in named), return_exceptions=True)
    names = set()
    for (model, suffix), config in zip(named, configs, strict=True):
        if isinstance(config, UnknownModel):  # gone since it was listed
            continue
        if isinstance(config, BaseException):
            raise config
        if "ensemble_scheduling" in config:
            names.add(model.removesuffix(suffix))
    return sorted(names)


async def only_retriever(transport: Transport, address: str) -> str:
    """The name of the server's only retriever.

    Raises: UnknownModel where it has none, several, or does not tell; ServerUnavailable, RequestTimeout, AccessDenied
    and UnexpectedAnswer where a name would not help.
    """
    try:
        models = await transport.models()
        names = await retriever_names(transport, models)
    except (ServerUnavailable, RequestTimeout):
        raise
    except (AccessDenied, UnexpectedAnswer) as error:
        # Something before the server may pass on everything but this question.
        asked = "This was asked for the retrievers of the server, since no name was given."
        raise type(error)(f"{error.message} {asked}", error.step) from None
    except RequestError as error:  # operators may close the model index to clients
        raise UnknownModel(
            f"the server at {address} does not tell which retrievers it has ({error.message}). Give the name of one."
        ) from None
    if len(names) == 1:
        return names[0]
    if names:
        raise UnknownModel(f"the server at {address} has several retrievers: {_listed(names)}. Give the name of one.")
    raise UnknownModel(
        f"the server at {address} has no retriever, {_others(models)}. Serve a repository written by "
        "`periscope export`."
    )


def _model(name: str, config: dict[str, Any]) -> _Model:
    parameters = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
    missing = [key for key in (_contract.FINGERPRINT, _contract.RECIPE) if not parameters.get(key)]
    if missing:
        raise UnexpectedAnswer(
            f"the model {name!r} lacks the parameter {missing[0]!r}, so nothing says which weights its vectors are of. "
            "Serve a repository written by `periscope export`."
        )
    # gRPC's JSON writes 64-bit integers as strings.
    inputs = {tensor["name"]: int((tensor.get("dims") or [1])[-1]) for tensor in config.get("input", [])}
    widths = {tensor["name"]: int(tensor["dims"][-1]) for tensor in config.get("output", [])}
    return _Model(name, parameters, inputs, widths)


def _vectors(model: _Model) -> _Vectors:
    if _contract.LATE in model.widths and _contract.LATE_MASK not in model.widths:
        raise UnexpectedAnswer(
            f"the model {model.name!r} gives late vectors without the mask that tells them from padding"
        )
    late, dense = model.widths.get(_contract.LATE), model.widths.get(_contract.DENSE)
    if late is None and dense is None:
        raise UnexpectedAnswer(f"the model {model.name!r} gives neither late nor dense vectors")
    if dense is not None and dense < 1:
        dense = _number(model, _contract.DENSE_WIDTH)
    if dense is None or _contract.DIMENSIONS not in model.inputs:
        return _Vectors(late, dense)
    return _Vectors(late, dense, (_number(model, _contract.DENSE_SMALLEST), dense))


def _limits(model: _Model) -> Limits:
    """Limits that the model states; repositories that were exported before it was written there say nothing."""
    names = (_contract.IMAGE_BYTES, _contract.IMAGE_PIXELS, _contract.TEXT_BYTES)
    return Limits(**{name: _number(model, name) for name in names if name in model.parameters})


def _number(model: _Model, name: str) -> int:
    """The parameter as a positive number."""
    text = model.parameters.get(name, "")
    if not text.isdecimal() or int(text) < 1:
        raise UnexpectedAnswer(
            f"the parameter {name!r} of the model {model.name!r} is {text!r}, not a positive number. "
            "Serve a repository written by `periscope export`."
        )
    return int(text)


async def _unknown(transport: Transport, retriever: str, address: str) -> UnknownModel:
    """The error that names the retrievers which the server does have."""
    try:
        models = await transport.models()
        names = await retriever_names(transport, models)
    except RequestError as error:  # operators may close the model index to clients
        there_is = f"The server does not tell which it has ({error.message})"
    else:
        there_is = f"It has {_listed(names)}" if names else f"It has none at all, {_others(models)}"
    return UnknownModel(
        f"the server at {address} has no retriever {retriever!r}. {there_is}. "
        "Correct the name, or serve a repository that contains it."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _others(models: Sequence[str]) -> str:
    return f"only these models: {', '.join(sorted(models)) or 'none'}"
