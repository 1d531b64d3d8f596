"""One call of `embed_text`, `embed_image` or `embed_video`: items in, vectors and errors by place out.

Shapes in names: B rows of a request (one), T tokens, K width of a late vector, D of a dense one, N items of the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from periscope_client import _contract
from periscope_client._connection import Connection
from periscope_client._contract import Output
from periscope_client._embeddings import Embeddings, Floats
from periscope_client._errors import ItemError, NotSent, RequestError, ServerUnavailable, UnexpectedAnswer
from periscope_client._finite import require_finite
from periscope_client._flight import Source
from periscope_client._info import RetrieverInfo
from periscope_client._options import Options, part_id
from periscope_client._transport import Tensors


class Vectors(NamedTuple):
    """Of one item, without padding."""

    late_TK: Floats | None
    dense_D: Floats | None


class Call:
    """Collects what becomes of the items. `handle` is the task of one item; an item's failure stays its own."""

    def __init__(
        self,
        connection: Connection,
        info: RetrieverInfo,
        model: str,
        shared: Tensors,
        outputs: tuple[Output, ...],
        width: int | None,
        options: Options,
        source: Source[Any],
        encode: Callable[[Any], Awaitable[Tensors]],
        describe: Callable[[Any], tuple[str, str]],
    ) -> None:
        self._connection = connection
        self._info = info
        self._model = model
        self._shared = shared
        self._outputs = outputs
        self._width = width
        self._options = options
        self._tensors = [tensor for output in outputs for tensor in _contract.TENSORS[output]]
        self._encode = encode
        self._describe = describe
        self._names: dict[int, str] = {}
        self._vectors: dict[int, Vectors] = {}
        self._source = source
        self._running: set[asyncio.Future[Vectors]] = set()
        self._ended: NotSent | None = None
        self._halted = False
        self.errors: dict[int, ItemError] = {}
        self.lost = False

    async def handle(self, index: int, item: object) -> None:
        """Embed one item, or note why it could not be."""
        self._names[index], label = self._describe(item)
        if self._ended is not None:
            self.errors[index] = ItemError(index, label, self._ended)
            return
        request = asyncio.ensure_future(self._request(index, item))
        self._running.add(request)
        try:
            self._vectors[index] = await request
        except RequestError as error:
            # Without the traceback, whose frames would keep the item's bytes in memory.
            self.errors[index] = ItemError(index, label, error.with_traceback(None))
            if isinstance(error, ServerUnavailable) and not self.lost and not await self._connection.alive():
                self.lost = True
                # Each item would wait for the server again, in vain.
                self._end("the server was lost")
        except asyncio.CancelledError:
            if not self._halted:  # then it is the call that was cancelled
                raise
            self.errors[index] = ItemError(index, label, NotSent("its answer was not waited for: the call was ended"))
        finally:
            self._running.discard(request)

    def halt(self) -> None:
        """Wait for no more answers, and send no more items."""
        self._halted = True
        self._end("the call was ended")
        for request in self._running:
            request.cancel()

    def _end(self, why: str) -> None:
        if self._ended is None:
            rest = "" if self._source.total is not None else ", nor was any item after it"
            self._ended = NotSent(f"not sent{rest}: {why} before its turn")
        self._source.stop()

    async def _request(self, index: int, item: object) -> Vectors:
        inputs = {**await self._encode(item), **self._shared}
        request_id = part_id(self._options.request_id, index)
        tensors = await self._connection.infer(self._model, inputs, self._tensors, self._info, request_id)
        return unpad(tensors, self._outputs, self._width)

    def embeddings(self) -> Embeddings:
        """Everything that has arrived, in the order of the items."""
        count = len(self._names)
        late: list[Floats | None] | None = None
        dense_ND: Floats | None = None
        if "late" in self._outputs:
            late = [self._vectors[i].late_TK if i in self._vectors else None for i in range(count)]
        if "dense" in self._outputs:
            dense_ND = np.full((count, self._width or 0), np.nan, np.float32)
            for i, vectors in self._vectors.items():
                dense_ND[i] = vectors.dense_D
        return Embeddings(
            late=late,
            dense=dense_ND,
            fingerprint=self._info.fingerprint,
            recipe=self._info.recipe,
            names=[self._names[i] for i in range(count)],
            errors=dict(sorted(self.errors.items())),
        )


def unpad(tensors: Mapping[str, NDArray[Any]], outputs: tuple[Output, ...], width: int | None) -> Vectors:
    """The vectors of the only item of a request, the dense one of `width`. Raises: UnexpectedAnswer."""
    late_TK = dense_D = None
    if "late" in outputs:
        padded_TK, real_T = late_row(tensors)
        # Indexing copies, so that neither padding nor the response that it came in stays in memory.
        late_TK = padded_TK[real_T].astype(np.float32, copy=False)
    if "dense" in outputs:
        dense_D = only_row(tensors, _contract.DENSE, 1).astype(np.float32)
        if len(dense_D) != width:
            raise UnexpectedAnswer(f"the dense vector has {len(dense_D)} dimensions, not {width}")
        require_finite(dense_D, "the dense vector")
    return Vectors(late_TK, dense_D)


def late_row(tensors: Mapping[str, NDArray[Any]]) -> tuple[Floats, NDArray[np.bool_]]:
    """Late vectors [T, K] of the only item of a request, padding included, and [T] which are real."""
    late_TK, mask_T = only_row(tensors, _contract.LATE, 2), only_row(tensors, _contract.LATE_MASK, 1)
    if late_TK.shape[:1] != mask_T.shape:
        raise UnexpectedAnswer(f"late vectors {late_TK.shape} and their mask {mask_T.shape} do not fit together")
    real_T: NDArray[np.bool_] = mask_T == 1
    require_finite(late_TK[real_T], "the late vectors")
    return late_TK, real_T


def only_row(tensors: Mapping[str, NDArray[Any]], name: str, axes: int) -> NDArray[Any]:
    """The row of the only item of a request, with so many axes. Raises: UnexpectedAnswer."""
    tensor = tensors.get(name)
    if tensor is None:
        raise UnexpectedAnswer(f"the output {name!r} is missing from the answer")
    if tensor.ndim != axes + 1 or tensor.shape[0] != 1:
        raise UnexpectedAnswer(f"the output {name!r} has the shape {tensor.shape}, not one row with {axes + 1} axes")
    row: NDArray[Any] = tensor[0]
    return row
