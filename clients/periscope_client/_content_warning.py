"""The warning that something of an item is not in its vectors, or not as its file has it."""

from __future__ import annotations

import warnings


class ContentWarning(UserWarning):
    """Something of an item is not in its vectors, or not as its file has it: an XFA form, a page rendered smaller.

    Said once a file, with the filters that Python has by default. The commands print it as a line on stderr.
    """


def say(name: str, text: str) -> None:
    """Warn of the item of that name."""
    warnings.warn(f"{name}: {text}", ContentWarning, stacklevel=2)


class Sayings:
    """Warnings already given of a file, so that none is given for each of its pages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: set[str] = set()

    def have(self, about: str) -> bool:
        """Whether something was said about it."""
        return about in self._said

    def say(self, about: str, text: str) -> None:
        """Warn, unless something was said about the same before."""
        if about not in self._said:
            self._said.add(about)
            say(self._name, text)
