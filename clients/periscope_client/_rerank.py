"""Reranking: the scores of documents for a query, which the model reads together.

Shapes in names: N documents of the call, or candidates of a request.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_client import _contract
from periscope_client._connection import Connection
from periscope_client._contents import Content, describe_content, encode_content
from periscope_client._embeddings import Floats
from periscope_client._errors import InvalidInput, ItemError, NotSent, RequestError, UnexpectedAnswer
from periscope_client._flight import Source, fly
from periscope_client._info import RetrieverInfo, require_content, require_rerank
from periscope_client._options import Options, option_inputs, part_id
from periscope_client._progress import progress_bar
from periscope_client._transport import Tensors, server_error, strings

# Requests are large and the server works on one after the other: a few in flight keep it busy.
RERANK_REQUESTS = 4

# Servers and gateways limit what they read at once: Triton over HTTP to 64 MiB in its later versions.
REQUEST_BYTES = 32 << 20

Numbered = list[tuple[int, object]]


@dataclass(frozen=True, eq=False)
class Reranking:
    """Scores of N documents for one query, in the order in which the documents were given.

    scores: [N] float32, the higher the better, NaN where a document failed. Scores of different fingerprints are not
        comparable.
    order: places of the documents, the best first, without those that failed, at most `top_n`; equal scores keep the
        order in which they were given.
    names: what each document was: its path, "PATH, page NUMBER", or the text itself.
    fingerprint: of weights, recipe and precision.
    recipe: name of the recipe.
    errors: the failed documents by their place.

    >>> ranking = retriever.rerank("revenue by region", pages, top_n=3)  # doctest: +SKIP
    >>> [(pages[place], ranking.scores[place]) for place in ranking.order]  # doctest: +SKIP
    """

    scores: Floats
    order: list[int]
    names: list[str]
    fingerprint: str
    recipe: str
    errors: Mapping[int, ItemError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


async def compute_ranking(
    connection: Connection,
    query: object,
    documents: Iterable[object],
    options: Options,
    top_n: int | None,
    concurrency: int,
    progress: bool | None,
) -> Reranking:
    """See `AsyncRetriever.rerank`."""
    if top_n is not None and operator.index(top_n) < 1:
        raise ValueError(f"top_n is at least 1, or None for all, not {top_n}")
    info = await connection.info()
    require_rerank(info)
    assert info.max_candidates is not None
    shared = {name: tensor[0] for name, tensor in option_inputs(info, "rerank", options).items()}
    shared |= query_inputs(await _encode_query(info, query))
    call = _Call(connection, info, shared, options)
    total = len(documents) if isinstance(documents, Sequence) else None
    with progress_bar(total, "document", progress) as bar:

        async def handle(_: int, chunk: Numbered) -> None:
            await call.handle(chunk)
            bar.update(len(chunk))

        source = Source(chunks(documents, info.max_candidates))
        try:
            await fly(source, handle, concurrency=min(RERANK_REQUESTS, concurrency))
        except RequestError as error:
            call.end(documents if isinstance(documents, Sequence) else ())
            error.ranking = call.ranking(top_n)
            raise
    await connection.confirm(info)
    return call.ranking(top_n)


class _Call:
    """Collects what becomes of the documents. A document's failure stays its own, a lost request ends the call."""

    def __init__(self, connection: Connection, info: RetrieverInfo, shared: Tensors, options: Options) -> None:
        self._connection = connection
        self._info = info
        self._shared = shared
        self._options = options
        self._model = _contract.RERANK.format(retriever=info.model)
        self._names: dict[int, str] = {}
        self._labels: dict[int, str] = {}
        self._scores: dict[int, float] = {}
        self._errors: dict[int, ItemError] = {}

    async def handle(self, chunk: Numbered) -> None:
        """Score as many documents as a request may hold; those that cannot be read are not sent."""
        contents: dict[int, Content] = {}
        for place, document in chunk:
            self._names[place], self._labels[place] = describe_content(document)
        for place, document in chunk:
            try:
                contents[place] = await asyncio.to_thread(encode_content, document, self._info.limits)
                require_content(self._info, contents[place].kinds(), self._info.candidates, "a document")
            except InvalidInput as error:
                contents.pop(place, None)
                self._fail(place, error)
        for part in fitting(contents):
            try:
                await self._score(part)
            except RequestError as error:
                for place in part:
                    self._fail(place, type(error)(*error.args), error.request_id)
                raise

    def end(self, documents: Sequence[object]) -> None:
        """Note of every other document, as far as they are known, that its turn did not come."""
        waiting = [place for place in self._names if place not in self._scores and place not in self._errors]
        for place in waiting:
            self._fail(place, NotSent("its answer was not waited for: another request of the call failed"))
        unsent = NotSent("not sent: another request of the call failed before its turn")
        for place in range(len(self._names), len(documents)):
            self._names[place], self._labels[place] = describe_content(documents[place])
            self._fail(place, unsent)

    async def _score(self, contents: Mapping[int, Content]) -> None:
        inputs = {**self._shared, **candidate_inputs(list(contents.values()))}
        request_id = part_id(self._options.request_id, next(iter(contents)))
        outputs = (_contract.SCORE, _contract.STATUS)
        tensors = await self._connection.infer(self._model, inputs, outputs, self._info, request_id)
        scores_N, statuses = read_scores(tensors, len(contents))
        for place, score, status in zip(contents, scores_N.tolist(), statuses, strict=True):
            if status:
                self._fail(place, server_error(InvalidInput, status), request_id)
            elif not np.isfinite(score):
                said = "neither a score nor a reason" if np.isnan(score) else f"no score, but {score}"
                self._fail(place, UnexpectedAnswer(f"the server gave {said}"), request_id)
            else:
                self._scores[place] = score

    def _fail(self, place: int, cause: RequestError, request_id: str | None = None) -> None:
        cause.request_id = request_id or None
        # Without the traceback, whose frames would keep the document's bytes in memory.
        self._errors[place] = ItemError(place, self._labels[place], cause.with_traceback(None))

    def ranking(self, top_n: int | None) -> Reranking:
        """Everything, in the order of the documents."""
        count = len(self._names)
        scores_N = np.array([self._scores.get(place, np.nan) for place in range(count)], np.float32)
        best = [place for place in np.argsort(-scores_N, kind="stable").tolist() if place in self._scores]
        return Reranking(
            scores=scores_N,
            order=best[:top_n],
            names=[self._names[place] for place in range(count)],
            fingerprint=self._info.fingerprint,
            recipe=self._info.recipe,
            errors=dict(sorted(self._errors.items())),
        )


def chunks(documents: Iterable[object], size: int) -> Iterator[Numbered]:
    """Numbered documents, as many at a time.

    >>> list(chunks("abc", 2))
    [[(0, 'a'), (1, 'b')], [(2, 'c')]]
    """
    numbered = enumerate(documents)
    while chunk := list(itertools.islice(numbered, size)):
        yield chunk


def fitting(contents: Mapping[int, Content]) -> Iterator[dict[int, Content]]:
    """Contents by their places, in requests of at most `REQUEST_BYTES`, or of one document that is larger."""
    part: dict[int, Content] = {}
    size = 0
    for place, content in contents.items():
        if part and size + content.size() > REQUEST_BYTES:
            yield part
            part, size = {}, 0
        part[place] = content
        size += content.size()
    if part:
        yield part


async def _encode_query(info: RetrieverInfo, query: object) -> Content:
    try:
        content = await asyncio.to_thread(encode_content, query, info.limits)
    except InvalidInput as error:
        raise InvalidInput(f"the query ({describe_content(query)[1]}): {error.message}", error.step) from None
    require_content(info, content.kinds(), info.queries, "the query")
    return content


def query_inputs(query: Content) -> dict[str, NDArray[Any]]:
    """The inputs for the parts that the query has."""
    parts = {
        _contract.QUERY_TEXT: (query.text,) if query.text else (),
        _contract.QUERY_IMAGE: (query.image,) if query.image else (),
        _contract.QUERY_VIDEO: query.video,
    }
    return {name: strings(part) for name, part in parts.items() if part}


def candidate_inputs(contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
    """The inputs for the parts that any of N candidates has: an entry each, empty where a candidate has none."""
    inputs: dict[str, NDArray[Any]] = {}
    if any(content.text for content in contents):
        inputs[_contract.TEXT] = strings([content.text for content in contents])
    if any(content.image for content in contents):
        inputs[_contract.IMAGE] = strings([content.image for content in contents])
    if any(content.video for content in contents):
        inputs[_contract.VIDEO] = strings([frame for content in contents for frame in content.video])
        inputs[_contract.VIDEO_FRAMES] = np.array([len(content.video) for content in contents], np.int32)
    return inputs


def read_scores(tensors: Mapping[str, NDArray[Any]], count: int) -> tuple[Floats, list[str]]:
    """Scores [N], and for each candidate the reason why it has none, or "". Raises: UnexpectedAnswer."""
    score_N1, status_N = tensors.get(_contract.SCORE), tensors.get(_contract.STATUS)
    if score_N1 is None or score_N1.shape != (count, 1) or status_N is None or status_N.shape != (count,):
        shapes = [None if tensor is None else tensor.shape for tensor in (score_N1, status_N)]
        raise UnexpectedAnswer(f"score and status of {count} candidates have the shapes {shapes}")
    return score_N1[:, 0].astype(np.float32), [status.decode(errors="replace") for status in status_N.tolist()]
