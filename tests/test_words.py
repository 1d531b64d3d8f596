"""Docstrings, comments and headings begin with a noun phrase or a verb, not with a clause ("What stops an export")."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("clients", "demo", "export", "model_repository", "perf", "runtime", "serve", "testing", "tests")
CLAUSE = re.compile(r"(What|Where|Which|How|Why|Who|Whom|Whose|Whoever|Whatever)\b")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def docstrings(text: str) -> Iterator[str]:
    """The docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    yield str(statement.value.value).partition("\n")[0]


def comments(text: str) -> Iterator[str]:
    """The first lines of comments that have lines of their own."""
    above = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("# ") and not above.startswith("#"):
            yield line.removeprefix("# ")
        above = line


@pytest.mark.parametrize("folder", FOLDERS)
def test_code_is_described_by_noun_phrases(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}: {words}"
        for file in files
        for text in [file.read_text(encoding="utf-8")]
        for words in (*docstrings(text), *comments(text))
        if CLAUSE.match(words)
    ]
    assert wrong == []


def test_headings_are_noun_phrases() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("[a-z]*/README.md")]
    wrong = [
        f"{document.relative_to(ROOT)}: {heading}"
        for document in documents
        for heading in HEADING.findall(document.read_text(encoding="utf-8"))
        if CLAUSE.match(heading)
    ]
    assert wrong == []
