"""Refusals of texts and instructions that are empty, too long, or would be taken for an image."""

from __future__ import annotations

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import Limits


def check_size(text: str, limits: Limits, what: str = "") -> None:
    """Raise `PreparationError` for a text as it was sent that is empty or too long; `what` begins the sentence."""
    if not text.strip():
        raise PreparationError(f"{what}is empty", "Send a text with at least one visible character")
    if (size := len(text.encode())) > limits.text_bytes:
        raise PreparationError(f"{what}has {size} bytes, above the limit of {limits.text_bytes}", "Shorten or split it")


def check_words(text: str, image_token: str | None, what: str = "") -> None:
    """Raise `PreparationError` for a text after its rules that is unfit: what they drop may have hidden something."""
    if not text:
        raise PreparationError(f"{what}holds nothing but quotes", "Send a text with at least one other character")
    if image_token is not None and image_token in text:
        raise PreparationError(f"{what}contains {image_token}, which stands for an image", "Remove it from the text")
