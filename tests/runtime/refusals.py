"""Properties that every refusal has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from periscope_runtime.errors import PreparationError

# Paths, addresses of objects, names of files and classes of Python: nothing that the sender can use.
_INTERNAL = re.compile(r"(/\w+){2}|[A-Z]:\\|\b0x[0-9a-f]{4}|\.py\b|Traceback|BytesIO|object at|<[a-z_]+\.")


def refused(prepare: Callable[..., Any], *arguments: Any) -> PreparationError:
    """Prepare, and return the refusal: nothing else may come out."""
    with pytest.raises(PreparationError) as caught:
        prepare(*arguments)
    error = caught.value
    assert_readable(error)
    return error


def assert_readable(error: PreparationError) -> None:
    assert error.problem
    assert error.remedy
    assert str(error) == f"{error.problem}. {error.remedy}."
    assert len(str(error).splitlines()) == 1
    assert not _INTERNAL.search(str(error)), str(error)
    # The cause stays inside: a chained exception would be printed with its traceback.
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
