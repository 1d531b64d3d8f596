"""Options of preparation: role, instruction, task, and the width of their dense vectors, as inputs of every request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_client import _contract
from periscope_client._info import RetrieverInfo, require_option
from periscope_client._items import encode_text
from periscope_client._transport import Tensors, text_tensor


@dataclass(frozen=True)
class Options:
    """Options that all items of a call share. None: the server's default."""

    role: str | None = None
    instruction: str | None = None
    task: str | None = None
    dimensions: int | None = None
    request_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("role", "instruction", "task"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} is a str or None, not {type(value).__name__}")
        check_request_id(self.request_id)


def check_request_id(request_id: str | None) -> None:
    """Raises: TypeError, ValueError for what a server's log could not be searched for."""
    if request_id is None:
        return
    if not isinstance(request_id, str):
        raise TypeError(f"request_id is a str or None, not {type(request_id).__name__}")
    if not re.fullmatch(r"[A-Za-z0-9_.:/+=@-]+", request_id):
        raise ValueError(f"request_id is a word of letters, digits and _.:/+=@-, not {request_id!r}")


def part_id(request_id: str | None, part: object) -> str:
    """The server's name of one request of a call; empty where the call has no id.

    >>> part_id("import-7", 3), part_id(None, 3)
    ('import-7/3', '')
    """
    return "" if request_id is None else f"{request_id}/{part}"


def option_inputs(info: RetrieverInfo, kind: str, options: Options) -> Tensors:
    """Inputs [1, 1] for what was asked. Raises: InvalidInput for what the retriever does not take for `kind`."""
    for name, value, offered in (
        ("instruction", options.instruction, info.instructions),
        ("task", options.task, info.tasks),
    ):
        if value is not None:
            require_option(info, f"{name} for {{}}", kind, offered)
    wanted = {
        _contract.ROLE: options.role,
        _contract.INSTRUCTION: options.instruction,
        _contract.TASK: options.task,
    }
    inputs: dict[str, NDArray[Any]] = {
        name: text_tensor(encode_text(value)) for name, value in wanted.items() if value is not None
    }
    if options.dimensions is not None and info.dimensions is not None:
        inputs[_contract.DIMENSIONS] = np.array([[options.dimensions]], np.int32)
    return inputs
