"""Contents in their prompts to token ids, and where in the text each token comes from.

T tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from periscope_runtime.errors import PreparationError
from periscope_runtime.lengths import Range
from periscope_runtime.paths import IMAGE, ItemPath
from periscope_runtime.prefixes import Ids, shared_prefix
from periscope_runtime.recipe import ContentKind, Preparation
from periscope_runtime.template import FIELDS, Template, check_prompts


class Asked(NamedTuple):
    """What is said of an item beside its content: its role, and what the model is to do, in words or by name."""

    role: str | None = None
    instruction: str | None = None
    task: str | None = None


class Content(NamedTuple):
    """What stands in a prompt: a text, and the number of visual tokens of an image, or of each group of frames."""

    kind: ContentKind
    text: str | None = None
    visual_tokens: Sequence[int] = ()


class Prompt(NamedTuple):
    """A content inside its prompt.

    `input_ids_T` int32; `spans_T2` int32, the token's begin and end in code points of the text as it was sent, (0, 0)
    for a token of the template.
    """

    input_ids_T: npt.NDArray[np.int32]
    spans_T2: npt.NDArray[np.int32]


class PromptEncoder:
    """Fills the recipe's templates and tokenizes them, special tokens included where the recipe wants them."""

    def __init__(self, preparation: Preparation, tokenizer_file: Path) -> None:
        self._preparation = preparation
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(f"tokenizer.json: {error}. Use the tokenizer of the checkpoint.") from None
        # Whatever a checkpoint stored there, cutting and padding are ours: cutting would be silent.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.image_token_id: int | None = None
        if preparation.image_token is not None:
            self.image_token_id = self._tokenizer.token_to_id(preparation.image_token)
            if self.image_token_id is None:
                raise ValueError(
                    f"tokenizer.json has no token {preparation.image_token!r}, which the recipe names as its image "
                    "token. Use the tokenizer of the checkpoint."
                )
        check_prompts(preparation)
        augmentation = preparation.augmentation
        self._augmentation = augmentation.token * augmentation.count if augmentation else ""
        self._templates = {
            role: {kind: Template(source) for kind, source in templates.items()}
            for role, templates in preparation.prompts.items()
        }
        contents = {} if preparation.pair is None else preparation.pair.contents
        self._sides = {kind: Template(source) for kind, source in contents.items()}

    def lengths(self, path: ItemPath) -> Range | None:
        """Return how many tokens an item of a path has beside its visual ones; None where there is no prompt at all."""
        preparation = self._preparation
        roles = preparation.roles("image")
        if path is IMAGE and preparation.instruction is None and "image_text" not in preparation.kinds:
            counts = [self._beside(preparation.prompts[role]["image"]) for role in roles]
            return Range(min(counts), max(counts)) if all(counts) else None
        return Range(1, preparation.limits.text_tokens)

    def _beside(self, source: str) -> int:
        """Return how many tokens a prompt has beside its image token."""
        filled = Template(source).fill({"augmentation": self._augmentation}).prompt
        return len(self._encode(filled).ids) - 1 if filled else 0

    def prefixes(self) -> list[Ids]:
        """Return the ids with which all prompts begin, whatever they hold, for each instruction that has a name.

        The default's are first. A content may still change the last of them: a line break of its own joins that of the
        template.
        """
        instruction = self._preparation.instruction
        words = [""] if instruction is None else [instruction.default, *instruction.tasks.values()]
        found = [
            shared_prefix((self._encode(prompt).ids for prompt in self._different(word)), self.image_token_id)
            for word in words
        ]
        return [prefix_K for prefix_K in found if len(prefix_K)]

    def _different(self, instruction: str) -> Iterator[str]:
        """Every prompt twice, with contents that have no first token in common."""
        constant = {"instruction": instruction, "augmentation": self._augmentation}
        pair = [] if self._preparation.pair is None else [Template(self._preparation.pair.prompt)]
        for template in (*pair, *(one for templates in self._templates.values() for one in templates.values())):
            for content in ("a", "1"):
                yield template.fill({**dict.fromkeys(FIELDS, content), **constant}).prompt

    def _encode(self, prompt: str) -> Encoding:
        encoding: Encoding = self._tokenizer.encode(prompt, add_special_tokens=self._preparation.special_tokens)
        return encoding

    def check(self, asked: Asked) -> None:
        """Raise `PreparationError` for an instruction or a task that this retriever does not take."""
        self._instruction(asked)

    def embedded(self, content: Content, asked: Asked) -> Prompt | None:
        """Return ids and spans of a content in a role; None for an image that has no prompt.

        Raises `PreparationError` for empty, long and unfit texts and for an unknown role or task.
        """
        template = self._templates[self._role(content.kind, asked.role)][content.kind]
        if not template.source:
            return None
        filled = template.fill({**self._values(content), "instruction": self._instruction(asked)})
        return self._tokenized(filled.prompt, content.visual_tokens, filled.begins.get("text", 0), content.text or "")

    def pair(self, query: Content, document: Content, asked: Asked) -> Prompt:
        """Return the ids of a query and a document in one prompt. Raises `PreparationError` as `embedded`."""
        pair = self._preparation.pair
        assert pair is not None
        sides = {
            side: self._sides[content.kind].fill(self._values(content)).prompt
            for side, content in (("query", query), ("document", document))
        }
        filled = Template(pair.prompt).fill({**sides, "instruction": self._instruction(asked)})
        return self._tokenized(filled.prompt, [*query.visual_tokens, *document.visual_tokens], 0, "")

    def _values(self, content: Content) -> dict[str, str]:
        if content.text is not None:
            self._check_text(content.text, "")
        frames = ""
        if "video" in content.kind:
            frames = "".join(self._frames(len(content.visual_tokens)))
        return {"text": content.text or "", "video": frames, "augmentation": self._augmentation}

    def _frames(self, groups: int) -> list[str]:
        """Return the prompt of each group of frames. Source: transformers `Qwen3VLProcessor`."""
        video, size = self._preparation.video, self._preparation.image.temporal_patch_size
        assert video is not None
        seconds = [(group * size + (size - 1) / 2) / video.fps for group in range(groups)]
        return [Template(video.frame).fill({"seconds": f"{time:.1f}"}).prompt for time in seconds]

    def _check_text(self, text: str, what: str) -> None:
        limits, image_token = self._preparation.limits, self._preparation.image_token
        if not text.strip():
            raise PreparationError(f"{what}is empty", "Send a text with at least one visible character")
        if (size := len(text.encode())) > limits.text_bytes:
            raise PreparationError(
                f"{what}has {size} bytes, above the limit of {limits.text_bytes}", "Shorten or split it"
            )
        if image_token is not None and image_token in text:
            raise PreparationError(
                f"{what}contains {image_token}, which stands for an image", "Remove it from the text"
            )

    def _instruction(self, asked: Asked) -> str:
        instruction = self._preparation.instruction
        if instruction is None:
            if asked.instruction is not None or asked.task is not None:
                raise PreparationError(
                    "has an instruction or a task, which this retriever does not take", "Leave it out"
                )
            return ""
        if asked.task is not None:
            if asked.instruction is not None:
                raise PreparationError("has both an instruction and a task", "Send one of them")
            if asked.task not in instruction.tasks:
                raise PreparationError(
                    f"has the task {asked.task!r}, which this retriever does not know",
                    f"Use one of {list(instruction.tasks)}" if instruction.tasks else "Send an instruction",
                )
            return instruction.tasks[asked.task]
        if asked.instruction is None:
            return instruction.default
        self._check_text(asked.instruction, "has an instruction that ")
        # Source: Qwen3-VL-Embedding, `format_model_input`.
        given = asked.instruction.strip() if instruction.end else asked.instruction
        return given if unicodedata.category(given[-1]).startswith("P") else given + instruction.end

    def _tokenized(self, prompt: str, visual_tokens: Sequence[int], begin: int, text: str) -> Prompt:
        """Return the prompt's ids with each image token repeated once a visual token."""
        limits, encoding = self._preparation.limits, self._encode(prompt)
        ids_T, spans_T2 = np.array(encoding.ids, np.int32), _cut(encoding.offsets, begin, len(text))
        is_image_T = np.zeros(len(ids_T), bool) if self.image_token_id is None else ids_T == self.image_token_id
        beside, visual = int(np.count_nonzero(~is_image_T)), sum(visual_tokens)
        if beside > limits.text_tokens:
            raise PreparationError(
                f"has {beside} tokens, above the limit of {limits.text_tokens}", "Shorten or split it"
            )
        if limits.tokens is not None and beside + visual > limits.tokens:
            raise PreparationError(
                f"has {beside + visual} tokens, {visual} of them visual, above the limit of {limits.tokens}",
                "Send a shorter text, or fewer or smaller images",
            )
        counts_T = np.ones(len(ids_T), np.int64)
        counts_T[is_image_T] = visual_tokens
        return Prompt(np.repeat(ids_T, counts_T), np.repeat(spans_T2, counts_T, axis=0))

    def _role(self, kind: ContentKind, role: str | None) -> str:
        roles = self._preparation.roles(kind)
        if role is not None and role not in roles:
            what = kind.replace("image_text", "image with text").replace("video_text", "video with text")
            raise PreparationError(
                f"has the role {role!r}, which this retriever does not know for {what}s", f"Use one of {roles}"
            )
        return role or roles[0]


def _cut(offsets: list[tuple[int, int]], begin: int, length: int) -> npt.NDArray[np.int32]:
    """Return int32 [T, 2]: what lies in the `length` characters from `begin` on, counted from there; else (0, 0).

    Offsets are in code points of what was tokenized, before the tokenizer normalises it. A token takes the space before
    its word along; the tokens of one character all span it; letters composed from several characters span the first.
    """
    spans_T2 = np.clip(np.array(offsets, np.int32) - np.int32(begin), 0, length)
    spans_T2[spans_T2[:, 0] == spans_T2[:, 1]] = 0
    return spans_T2
