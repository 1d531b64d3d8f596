"""Paths: the ways that items take through the graphs, and everything that differs between them by path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ItemPath:
    """One path.

    `name`: its word in the files of a repository, and in the names of what prepares its items.
    `model`: the served model that callers name, without the retriever's name in front.
    `item`: the word for one item of it in messages, and for their number in a recipe's `batch`.
    `content`: the kind of content that its items hold at least, None where items are no single content.
    `visual`: whether its items may hold images.
    `place`: the tensor that says where its tokens come from, beside late vectors; None where nothing does.
    `profiles`: the optimization profiles that are made for it, in order.
    `pairs`: whether a row is a query and a document, with a status of its own.
    `sides`: the paths of queries and documents whose vectors meet on this one, where no item is prepared.
    """

    name: str
    model: str
    item: str
    content: Literal["text", "image", "video"] | None = None
    visual: bool = False
    place: Literal["token_spans", "visual_grid"] | None = None
    profiles: tuple[str, ...] = ()
    pairs: bool = False
    sides: tuple[ItemPath, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether its items become vectors, each of its own."""
        return self.content is not None


TEXT = ItemPath("text", "embed_text", "text", "text", place="token_spans", profiles=("query", "queries"))
IMAGE = ItemPath("image", "embed_image", "page", "image", visual=True, place="visual_grid", profiles=("pages",))
VIDEO = ItemPath("video", "embed_video", "video", "video", visual=True, profiles=("videos",))
RERANK = ItemPath("rerank", "rerank", "pair", visual=True, profiles=("pairs",), pairs=True)
SEARCH = ItemPath("search", "maxsim", "query", sides=(TEXT, IMAGE))

PATHS = {path.name: path for path in (TEXT, IMAGE, VIDEO, RERANK, SEARCH)}
"""All of them by name, in the order in which files list them."""

EMBEDDED = tuple(path for path in PATHS.values() if path.embedded)
