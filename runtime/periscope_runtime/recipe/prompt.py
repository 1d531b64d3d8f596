"""The part of a recipe about words: prompts, instructions, and what happens to a text on its way into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from periscope_runtime.kinds import KindWord
from periscope_runtime.recipe.limits import refuse

# The tokens of a prompt that make the dense vector, or the score: the mean of all, or the last.
Pooling = Literal["mean", "last"]
# Changes of a text before it enters a template, one each; `text_rules.py` says what exactly.
TextRule = Literal[
    "drop_carriage_returns", "strip", "strip_quotes", "capitalise", "end_sentence", "end_unless_punctuation"
]


@dataclass(frozen=True)
class Instruction:
    """The task that the model is given in words.

    `default`: the one where neither the caller nor a task has another; "" for none at all.
    `rules`: what happens, in order, to one that the caller gives.
    `prompt`: holds `{instruction}` and `{text}`; where there is an instruction, it stands in place of the text, and the
        text's rules are for the whole. Without a text, the white space around `{text}` is left out as well. None where
        the templates hold `{instruction}` themselves.
    `roles`: the roles that take one; items of others have the default. None for all.
    """

    default: str
    rules: tuple[TextRule, ...] = ()
    prompt: str | None = None
    roles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PairPrompt:
    """The prompt of a query and a document that are judged together.

    `prompt` holds `{query}` and `{document}` once, and may hold `{instruction}`; `contents` says for each kind of
    content what stands there.
    """

    prompt: str
    contents: dict[KindWord, str]


@dataclass(frozen=True)
class SeveralImages:
    """Several images in one item, where a template says `{images}`.

    `image`: the prompt of each, with the image token once. `most`: how many an item may have.
    Raises `ValueError` for fewer than two.
    """

    image: str
    most: int

    def __post_init__(self) -> None:
        """Refuse what are not several."""
        refuse([f"images.most is {self.most}: it has to be 2 at least"] if self.most < 2 else [])


@dataclass(frozen=True)
class Augmentation:
    """Query augmentation: `token` repeated `count` times, where a template says `{augmentation}`."""

    token: str
    count: int
