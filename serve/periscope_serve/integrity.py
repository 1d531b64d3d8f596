"""Whether the files of a repository are those that were exported: by size, or by digest.

`fidelity.json` says both of every file. A weight with a flipped bit makes a wrong vector under the right fingerprint,
and nothing else would tell. Configs may be tuned, and what they say is checked: only a missing or empty one is found
here, without which Triton would complete the model by rules of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from periscope_serve.repository import CONFIG, Finding

REPORT = "fidelity.json"
_REMEDY = "Copy it again from where it was exported, or export again"


class BadReportError(Exception):
    """The report is there and cannot be used."""


def read_report(repository: Path) -> dict[str, Any]:
    """Return what the export says of a repository, nothing where it says nothing. Raises `BadReportError`."""
    path = repository / REPORT
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadReportError(f"it does not parse as JSON: {error}") from None
    if not isinstance(report, dict):
        raise BadReportError("it holds no JSON object")
    return report


def check_sizes(repository: Path) -> Iterator[Finding]:
    """Every file that is missing or has another size; nothing of exports that recorded none."""
    yield from _checked(repository, "sizes", lambda path: path.stat().st_size, "bytes")


def check_digests(repository: Path) -> Iterator[Finding]:
    """Every file that is missing or has other content. Reads all of them."""
    yield from _checked(repository, "files", _sha256, "as SHA-256")


def _checked(repository: Path, what: str, measure: Any, unit: str) -> Iterator[Finding]:
    try:
        recorded = read_report(repository).get(what, {})
        if not isinstance(recorded, Mapping):
            raise BadReportError(f"'{what}' is no JSON object")
    except BadReportError as error:
        yield Finding(REPORT, str(error), _REMEDY)
        return
    for name, wanted in recorded.items():
        model, _, inside = name.partition("/")
        path = repository / name
        if not (repository / model).exists():
            continue
        if not path.is_file():
            yield Finding(model, f"{inside} is missing", _REMEDY)
            continue
        if inside == CONFIG:
            if not path.stat().st_size:
                yield Finding(model, f"{inside} is empty", _REMEDY)
            continue
        try:
            found = measure(path)
        except OSError as error:
            yield Finding(model, f"{inside or model} cannot be read: {error.strerror}", _REMEDY)
            continue
        if found != wanted:
            said = f"it has {found} {unit}, and had {wanted} when it was exported"
            yield Finding(model, f"{inside or model} is not what was exported: {said}", _REMEDY)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
