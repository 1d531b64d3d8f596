"""A checkpoint's tokenizer, and whether every token of it has a row in the table of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from periscope_export.errors import ExportError

_NAMED = 8


def read_tokenizer(path: Path, added: Sequence[str] = ()) -> Tokenizer:
    """Return the tokenizer of a file with `added` tokens. Raises `ExportError` for a file that holds none."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ExportError(f"checkpoint: {path} holds no tokenizer ({error}). Download it again.") from error
    tokenizer.add_tokens(list(added))
    return tokenizer


def check_tokens(tokenizer: Path, rows: int, table: str) -> None:
    """Raise `ExportError` naming the tokens whose ids lie beyond the `rows` of a `table` of embeddings.

    Prompts, and what callers send, may hold any token of the tokenizer: one without a row would fail when it comes.
    """
    ids = read_tokenizer(tokenizer).get_vocab(with_added_tokens=True)
    beyond = sorted((row, token) for token, row in ids.items() if row >= rows)
    if beyond:
        named = ", ".join(f"{token!r} ({row})" for row, token in beyond[:_NAMED])
        more = f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
        raise ExportError(
            f"checkpoint: {table} has {rows} rows, and tokenizer.json has tokens beyond them: {named}{more}. "
            "Use the tokenizer that the checkpoint was published with, or resize the embeddings to it "
            "(resize_token_embeddings) before training."
        )
