"""The error of an item that cannot be prepared."""

from __future__ import annotations


class PreparationError(ValueError):
    """One item cannot be prepared. The text is made for the person who sent it: no server path, no traceback.

    `problem` says what is wrong with the item, `remedy` what to do about it. `at` adds the step and the item, which
    only the caller knows.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}. {remedy}.")
        self.problem = problem
        self.remedy = remedy

    def at(self, step: str, item: str) -> str:
        """Return the whole message, e.g. `preprocess: image 0: is empty. Send the bytes of an image file.`"""
        return f"{step}: {item}: {self}"
