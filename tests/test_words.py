"""Docstrings and headings begin with a noun phrase or a verb, not with a relative clause ("What stops an export")."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("clients", "demo", "model_repository", "perf", "serve", "tests")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
CLAUSE = re.compile(r"(What|Where|Which|How|Why|Who|Whom|Whose|Whoever|Whatever)\b")


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring of a file, and of the strings that explain an attribute above them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, DOCUMENTED):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    yield statement.lineno, str(statement.value.value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_with_a_relative_clause(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for file in files
        for line, text in docstrings(file)
        if CLAUSE.match(text)
    ]
    assert wrong == []
