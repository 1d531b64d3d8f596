"""Texts and roles to token ids.

T tokens.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import ContentKind, Preparation


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
        self._image_prompts = {
            role: self._encode(preparation.prompts[role]["image"]) for role in preparation.roles("image")
        }
        for role, ids_T in self._image_prompts.items():
            if np.count_nonzero(ids_T == image_token_id) != 1:
                raise ValueError(f"the image prompt of the role {role!r} must hold {preparation.image_token} once.")

    def text(self, text: str, role: str | None) -> npt.NDArray[np.int32]:
        """Return int32 [T] for a text in a role. Raises `PreparationError` for empty, long and unfit texts."""
        limits = self._preparation.limits
        template = self._preparation.prompts[self._role("text", role)]["text"]
        if not text.strip():
            raise PreparationError("is empty", "Send a text with at least one visible character")
        if (size := len(text.encode())) > limits.text_bytes:
            raise PreparationError(f"has {size} bytes, above the limit of {limits.text_bytes}", "Shorten or split it")
        if self._preparation.image_token in text:
            raise PreparationError(
                f"contains {self._preparation.image_token}, which stands for an image", "Remove it from the text"
            )
        ids_T = self._encode(self._fill(template, text))
        if len(ids_T) > limits.text_tokens:
            raise PreparationError(
                f"has {len(ids_T)} tokens, above the limit of {limits.text_tokens}", "Shorten or split it"
            )
        return ids_T

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

    def _fill(self, template: str, text: str) -> str:
        augmentation = self._preparation.augmentation
        values = {"{text}": text, "{augmentation}": augmentation.token * augmentation.count if augmentation else ""}
        # One pass, so that braces inside the text are text.
        return re.sub(r"\{text\}|\{augmentation\}", lambda match: values[match.group()], template)

    def _encode(self, text: str) -> npt.NDArray[np.int32]:
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int32)
