"""The reason why Triton stopped, found in its log."""

from __future__ import annotations

import re
from collections.abc import Sequence

TAIL = 15
"""The number of log lines to show where no reason was found."""

_ERROR = re.compile(r'[EF]\d{4} \S+ +\d+ \S+\] "(.*)"$')
_PROTOBUF = re.compile(r"\[libprotobuf ERROR [^\]]*\] (.*)")
_CONTEXTS = (
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<why>.*)", re.DOTALL),
    re.compile(r"failed to load model '(?P<model>[^']+)': (?P<why>.*)", re.DOTALL),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<why>.*)", re.DOTALL),
)
_NOISE = (
    # On a machine without a GPU.
    "CudaDriverHelper has not been initialized",
    # Told again, with the model's name, by the line that follows.
    "ERROR: Failed to create instance",
)


def failure(lines: Sequence[str]) -> str:
    """The cause of Triton's end before it was ready: a reason per model where its log has them, else its last lines."""
    reasons = list(dict.fromkeys(filter(None, map(_reason, lines))))
    if not reasons:
        return f"Triton ended before it was ready; the last lines of its log were:\n{tail(lines)}"
    listed = "\n".join(f"  {reason}" for reason in reasons)
    return f"Triton could not load the repository; correct this and start again:\n{listed}"


def tail(lines: Sequence[str]) -> str:
    """The last lines of the log without the tables that Triton draws."""
    return "\n".join([line for line in lines if line.strip() and line[0] not in "+|"][-TAIL:])


def _reason(line: str) -> str | None:
    protobuf = _PROTOBUF.match(line)
    if protobuf:
        return protobuf[1]
    error = _ERROR.match(line)
    if not error or error[1].startswith(_NOISE):
        return None
    message = _readable(error[1])
    for context in _CONTEXTS:
        found = context.match(message)
        if found:
            prefix = f"model '{found['model']}'"
            return found["why"] if found["why"].startswith(prefix) else f"{prefix}: {found['why']}"
    return message


def _readable(message: str) -> str:
    # Triton escapes its messages as JSON does; a Python traceback follows the message as "At:".
    message = message.replace("\\n", "\n").replace('\\"', '"').split("\n\nAt:\n")[0]
    message = re.sub(r"\b(?:Internal|TritonModelException): ", "", message)
    return " ".join(message.split())
