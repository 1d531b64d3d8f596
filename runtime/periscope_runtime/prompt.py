"""Texts and roles to token ids, and where in the text each token comes from.

T tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import ContentKind, Preparation


class TextPrompt(NamedTuple):
    """A text inside its prompt.

    `input_ids_T` int32; `spans_T2` int32, the token's begin and end in code points of the text as it was sent, (0, 0)
    for a token of the template.
    """

    input_ids_T: npt.NDArray[np.int32]
    spans_T2: npt.NDArray[np.int32]


class PromptEncoder:
    """Fills the recipe's templates and tokenizes them, special tokens included, as the published processors do."""

    def __init__(self, preparation: Preparation, tokenizer_file: Path) -> None:
        self._preparation = preparation
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        # Whatever a checkpoint stored there, cutting and padding are ours: cutting would be silent.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        image_token_id = self._tokenizer.token_to_id(preparation.image_token)
        if image_token_id is None:
            raise ValueError(
                f"tokenizer.json has no token {preparation.image_token!r}, which the recipe names as its image token. "
                "Use the tokenizer of the checkpoint."
            )
        self.image_token_id: int = image_token_id
        self._text_prompts = {role: self._text_prompt(role) for role in preparation.roles("text")}
        self._image_prompts = {
            role: self._encode(preparation.prompts[role]["image"]) for role in preparation.roles("image")
        }
        for role, ids_T in self._image_prompts.items():
            if np.count_nonzero(ids_T == image_token_id) != 1:
                raise ValueError(f"the image prompt of the role {role!r} must hold {preparation.image_token} once.")

    @property
    def page_prompts(self) -> list[int]:
        """How many tokens the prompt of each role that takes pages has beside the visual ones."""
        return [len(ids_T) - 1 for ids_T in self._image_prompts.values()]

    def text(self, text: str, role: str | None) -> TextPrompt:
        """Return ids and spans of a text in a role. Raises `PreparationError` for empty, long and unfit texts."""
        limits = self._preparation.limits
        before, after = self._text_prompts[self._role("text", role)]
        if not text.strip():
            raise PreparationError("is empty", "Send a text with at least one visible character")
        if (size := len(text.encode())) > limits.text_bytes:
            raise PreparationError(f"has {size} bytes, above the limit of {limits.text_bytes}", "Shorten or split it")
        if self._preparation.image_token in text:
            raise PreparationError(
                f"contains {self._preparation.image_token}, which stands for an image", "Remove it from the text"
            )
        encoding = self._tokenizer.encode(before + text + after)
        if len(encoding.ids) > limits.text_tokens:
            raise PreparationError(
                f"has {len(encoding.ids)} tokens, above the limit of {limits.text_tokens}", "Shorten or split it"
            )
        return TextPrompt(np.array(encoding.ids, np.int32), _cut(encoding.offsets, len(before), len(text)))

    def image(self, visual_tokens: int, role: str | None) -> npt.NDArray[np.int32]:
        """Return int32 [T]: the page prompt of a role with its image token repeated once a visual token."""
        ids_T = self._image_prompts[self._role("image", role)]
        return np.repeat(ids_T, np.where(ids_T == self.image_token_id, visual_tokens, 1))

    def _role(self, kind: ContentKind, role: str | None) -> str:
        roles = self._preparation.roles(kind)
        if role is not None and role not in roles:
            raise PreparationError(
                f"has the role {role!r}, which this retriever does not know for {kind}s", f"Use one of {roles}"
            )
        return role or roles[0]

    def _text_prompt(self, role: str) -> tuple[str, str]:
        """Return what the role's template says before and after the text."""
        augmentation = self._preparation.augmentation
        tokens = augmentation.token * augmentation.count if augmentation else ""
        parts = self._preparation.prompts[role]["text"].split("{text}")
        if len(parts) != 2:
            raise ValueError(f"the text prompt of the role {role!r} must hold {{text}} once.")
        before, after = (part.replace("{augmentation}", tokens) for part in parts)
        return before, after

    def _encode(self, text: str) -> npt.NDArray[np.int32]:
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int32)


def _cut(offsets: list[tuple[int, int]], begin: int, length: int) -> npt.NDArray[np.int32]:
    """Return int32 [T, 2]: what lies in the `length` characters from `begin` on, counted from there; else (0, 0).

    Offsets are in code points of what was tokenized, before the tokenizer normalises it. A token takes the space before
    its word along; the tokens of one character all span it; letters composed from several characters span the first.
    """
    spans_T2 = np.clip(np.array(offsets, np.int32) - np.int32(begin), 0, length)
    spans_T2[spans_T2[:, 0] == spans_T2[:, 1]] = 0
    return spans_T2
