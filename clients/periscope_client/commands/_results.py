"""Results of the commands on stdout: rankings as a table, anything as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from periscope_client._embeddings import Floats

_SURROGATE = re.compile("[\ud800-\udfff]")


def ranking_table(scores_N: Floats, documents: Sequence[tuple[object, int | None]], best: Iterable[int]) -> list[str]:
    """The lines of a table: rank, score, page, file. Documents are files with a page, or without."""
    lines = [f"{'rank':>4}  {'score':>9}  {'page':>4}  file"]
    for rank, index in enumerate(best, start=1):
        file, page = documents[index]
        file = " ".join(str(file).splitlines())
        lines.append(f"{rank:>4}  {scores_N[index]:>9.4f}  {'-' if page is None else page:>4}  {file}")
    return lines


def json_text(data: object) -> str:
    r"""JSON in UTF-8, in which a byte of a file's name that is not UTF-8 is an escape, `\udc80` to `\udcff`.

    >>> json_text("caf\udce9 café")
    '"caf\\udce9 café"'
    """
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
