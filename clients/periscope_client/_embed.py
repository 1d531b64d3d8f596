"""The course of a call that embeds: what is refused before it begins, the requests in flight, and its end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from periscope_client import _contract
from periscope_client._call import Call
from periscope_client._connection import Connection
from periscope_client._contents import describe_image, describe_text, describe_video, encode_frames, encode_several
from periscope_client._contract import Output
from periscope_client._embeddings import Embeddings
from periscope_client._errors import ItemsFailed, ServerLost
from periscope_client._flight import Source, fly
from periscope_client._info import (
    RetrieverInfo,
    choose_outputs,
    choose_width,
    require_kind,
    require_option,
    require_several,
)
from periscope_client._items import encode_image, encode_text
from periscope_client._options import Options, option_inputs
from periscope_client._progress import progress_bar
from periscope_client._transport import Tensors, strings, text_tensor

OnError: TypeAlias = Literal["raise", "keep"]


class _Kind(NamedTuple):
    """The way of a kind of items into requests, and their names."""

    encode: Callable[[object, RetrieverInfo], Awaitable[Tensors]]
    describe: Callable[[object], tuple[str, str]]


async def _encode_text(item: object, info: RetrieverInfo) -> Tensors:
    return {_contract.TEXT: text_tensor(encode_text(item, info.limits))}


async def _encode_image(item: object, info: RetrieverInfo) -> Tensors:
    if isinstance(item, list | tuple):
        require_several(info)
        return {_contract.IMAGE: strings(await asyncio.to_thread(encode_several, item, info.limits))[None]}
    return {_contract.IMAGE: text_tensor(await asyncio.to_thread(encode_image, item, info.limits))}


async def _encode_video(item: object, info: RetrieverInfo) -> Tensors:
    return {_contract.VIDEO: strings(await asyncio.to_thread(encode_frames, item, info.limits))[None]}


_KINDS = {
    "text": _Kind(_encode_text, describe_text),
    "image": _Kind(_encode_image, describe_image),
    "video": _Kind(_encode_video, describe_video),
}


class Item(NamedTuple):
    """A text, an image or a video, and the text beside it."""

    content: object
    text: str | None


async def embed(
    connection: Connection,
    kind: str,
    contents: Iterable[object],
    texts: Iterable[str | None] | None,
    options: Options,
    outputs: Iterable[Output] | None,
    on_error: OnError,
    concurrency: int,
    progress: bool | None,
    halt: asyncio.Event,
) -> Embeddings:
    """Vectors of `contents`, of a kind, each with its text if `texts` are given. See `AsyncRetriever.embed_image`.

    halt: when it is set, the call ends with what has arrived.
    """
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep', not {on_error!r}")
    items, total = _items(contents, texts)
    info = await connection.info()
    require_kind(info, kind)
    if texts is not None:
        require_option(info, "text beside {}", kind, info.fused)
    chosen = choose_outputs(info, outputs)
    width = choose_width(info, chosen, options.dimensions)
    shared = option_inputs(info, kind, options)
    encode_content, describe = _KINDS[kind]

    async def encode(item: Item) -> Tensors:
        beside = {} if item.text is None else await _encode_text(item.text, info)
        return {**beside, **await encode_content(item.content, info)}

    model = _contract.EMBEDDING_MODELS[kind].format(retriever=info.model)
    source = Source(items, total)
    call = Call(
        connection, info, model, shared, chosen, width, options, source, encode, lambda item: describe(item.content)
    )

    async def watch() -> None:
        await halt.wait()
        call.halt()

    with progress_bar(source.total, kind, progress) as bar:

        async def handle(index: int, item: Item) -> None:
            await call.handle(index, item)
            bar.update()

        watching = asyncio.ensure_future(watch())
        try:
            await fly(source, handle, concurrency=concurrency)
        finally:
            watching.cancel()
    await connection.confirm(info)
    embeddings = call.embeddings()
    if call.errors and on_error == "raise":
        raise (ServerLost if call.lost else ItemsFailed)(call.errors, embeddings)
    return embeddings


def _items(contents: Iterable[object], texts: Iterable[str | None] | None) -> tuple[Iterator[Item], int | None]:
    """Contents with their texts, read one by one, and how many there are if that is known.

    Raises: ValueError when there are not as many of both; at once if both lengths are known, else at the end of one.
    """
    total = len(contents) if isinstance(contents, Sequence) else None
    if texts is None:
        return map(Item, contents, itertools.repeat(None)), total
    if total is not None and isinstance(texts, Sequence) and len(texts) != total:
        raise ValueError(f"text has one entry for each item (None for an item without): {len(texts)} for {total} items")
    return _strictly(contents, texts), total


def _strictly(contents: Iterable[object], texts: Iterable[str | None]) -> Iterator[Item]:
    end = object()
    for count, (content, text) in enumerate(itertools.zip_longest(contents, texts, fillvalue=end)):
        if content is end or text is end:
            ended = "the items end" if content is end else "text ends"
            raise ValueError(f"text has one entry for each item (None for an item without): {ended} after {count}")
        yield Item(content, text)  # type: ignore[arg-type]
