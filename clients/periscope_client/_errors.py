"""Everything this client raises, drawn first and implemented in that order.

PeriscopeError
├── RequestError             one request failed                                      .step  .message
│   ├── ServerUnavailable    nothing answers at the address, or the server went away
│   ├── RequestTimeout       no answer within `Timeout`
│   ├── AccessDenied         the server, or a gateway before it, does not let this client in
│   ├── UnknownModel         the server does not have this retriever
│   ├── InvalidInput         the item or an option is refused, by the server or before it is sent
│   ├── ServerFault          the server failed on a request that it had accepted
│   ├── NotSent              the item's turn did not come: the server was lost, or the call was ended
│   └── UnexpectedAnswer     what answers does not keep the contract of a served retriever
├── ItemError                what happened to one item of a call                     .index  .name  .cause
├── ItemsFailed              some items of a call failed, the others are here        .errors  .embeddings
│   └── ServerLost           the server went away during the call; also a ServerUnavailable
├── UnusableRetriever        the object is closed, or belongs to another event loop; also a RuntimeError
├── FingerprintMismatch      vectors of different weights would have been mixed
├── MissingVectors           the operation needs vectors that are not there
└── VectorFileError          a file of vectors cannot be read

Arguments that are wrong whatever the server says (an unknown protocol, a string where a list belongs) raise Python's
own `ValueError` and `TypeError`.
"""

# The names say what happened; the suffix Error is kept for the bases.
# ruff: noqa: N818

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from periscope_client._account import by_reason, called

if TYPE_CHECKING:
    from periscope_client._embeddings import Embeddings
    from periscope_client._rerank import Reranking


class PeriscopeError(Exception):
    """Base of every error of this client. Catch it to print one line and go on."""


class RequestError(PeriscopeError):
    """One request failed. `.message` says how, `.step` names the server's step (or "read", the client's) if known.

    `.request_id` is what the server's log calls the request, where the call was given a `request_id`. `.ranking` is
    what a call of `rerank` had scored when this request ended it, with an error for each other document.
    """

    request_id: str | None = None
    ranking: Reranking | None = None

    def __init__(self, message: str, step: str | None = None) -> None:
        # All arguments go to `args`, here and below, so that an error survives pickling between processes.
        super().__init__(message, step)
        self.message = message
        self.step = step

    @property
    def reason(self) -> str:
        """The message under its step, the same for all requests that failed alike."""
        return f"{self.step}: {self.message}" if self.step else self.message

    def __str__(self) -> str:
        return self.reason if self.request_id is None else f"{self.reason} (request {self.request_id})"


class ServerUnavailable(RequestError):
    """Nothing answers at the address, or the server declined, and retrying did not help. Catch it to try later."""


class RequestTimeout(RequestError):
    """No answer within the `Timeout`. The item may be too large, or the server too busy for this `concurrency`."""


class AccessDenied(RequestError):
    """The server, or a gateway before it, does not let this client in: the token is missing, wrong or expired."""


class UnknownModel(RequestError):
    """The server does not have this retriever. The message names those it has."""


class InvalidInput(RequestError):
    """An item is refused (an unreadable file, a broken image), or an option (an unknown role). Never retried."""


class ServerFault(RequestError):
    """The server accepted the request and then failed. Its log says why."""


class UnexpectedAnswer(RequestError):
    """An answer that breaks the contract of a served retriever: parameters or tensors are missing or misshapen."""


class NotSent(RequestError):
    """The item's turn did not come, or its answer was not waited for: the server was lost, or the call was ended."""


class ItemError(PeriscopeError):
    """The error of one item of a call: `.index` is its place in the input, `.name` a file, page or text.

    `.cause` is the `RequestError`; `.step`, `.message` and `.request_id` are the cause's.
    """

    def __init__(self, index: int, name: str, cause: RequestError) -> None:
        super().__init__(index, name, cause)
        self.index = index
        self.name = name
        self.cause = cause

    @property
    def step(self) -> str | None:
        """The step that refused the item: "preprocess", another step of the server, or "read" for the client."""
        return self.cause.step

    @property
    def message(self) -> str:
        """The fault of the item, and its remedy."""
        return self.cause.message

    @property
    def request_id(self) -> str | None:
        """The name of the item's request in the server's log, where the call was given a `request_id`."""
        return self.cause.request_id

    def at(self, index: int) -> ItemError:
        """The same error for the item's place in another collection."""
        return ItemError(index, self.name, self.cause)

    def __str__(self) -> str:
        return f"{self._label()}: {self.cause}"

    def _label(self) -> str:
        return f"item {self.index} ({self.name})"


class ItemsFailed(PeriscopeError):
    """Some items of a call failed. `.errors` maps their places to `ItemError`, `.embeddings` holds all the others.

    At the failed places `.embeddings.late` has None and `.embeddings.dense` a row of NaN. Items that were not sent are
    among them, their causes are `NotSent`; of an iterator that was not read to its end, the first such item.
    """

    def __init__(self, errors: Mapping[int, ItemError], embeddings: Embeddings) -> None:
        super().__init__(errors, embeddings)
        self.errors = dict(errors)
        self.embeddings = embeddings

    def __str__(self) -> str:
        # A reason that many items share (a wrong role, a lost server) is given once.
        reasons = [
            f"{called(alike, ItemError._label)}: {alike[0].cause.reason}" for alike in by_reason(self.errors.values())
        ]
        unsent = sum(isinstance(error.cause, NotSent) for error in self.errors.values())
        failed = f"{len(self.errors) - unsent} of {len(self.embeddings)} items failed"
        return "\n  ".join([f"{failed}, {unsent} were not sent:" if unsent else f"{failed}:", *reasons])


class ServerLost(ItemsFailed, ServerUnavailable):
    """The server went away during the call and did not come back. Carries what had arrived, like `ItemsFailed`."""

    def __init__(self, errors: Mapping[int, ItemError], embeddings: Embeddings) -> None:
        super().__init__(errors, embeddings)
        self.message = next(e.message for e in errors.values() if isinstance(e.cause, ServerUnavailable))
        self.step = None


class UnusableRetriever(PeriscopeError, RuntimeError):
    """The object cannot be used here: it is closed, belongs to another event loop, or gRPC was used before a fork."""


class FingerprintMismatch(PeriscopeError):
    """Vectors of different weights, recipes or precisions would have been mixed. Embed one side again."""


class MissingVectors(PeriscopeError):
    """The operation needs vectors that are not there: the retriever has none, none were asked for, or items failed."""


class VectorFileError(PeriscopeError):
    """A file is not one that `Embeddings.save` wrote."""
