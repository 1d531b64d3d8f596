"""Contents in their prompts to token ids, and where in the text each token comes from.

T tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from periscope_runtime.asked import Asked, decided, decided_of_pairs
from periscope_runtime.errors import PreparationError
from periscope_runtime.kinds import ContentKind, templates
from periscope_runtime.lengths import Range
from periscope_runtime.paths import IMAGE, ItemPath
from periscope_runtime.prefixes import Ids, shared_prefix
from periscope_runtime.recipe import Preparation
from periscope_runtime.template import FIELDS, Filled, Span, Template, joined
from periscope_runtime.text_checks import check_size, check_words
from periscope_runtime.text_rules import Traced, traced


class Content(NamedTuple):
    """The content of a prompt: a text, and the number of visual tokens of each image, or group of frames."""

    kind: ContentKind
    text: str | None = None
    visual_tokens: Sequence[int] = ()


class Prompt(NamedTuple):
    """A content inside its prompt.

    `input_ids_T` int32; `spans_T2` int32, the token's begin and end in code points of the text as it was sent, (0, 0)
    for a token of the template; `poolable_T` bool, whether the marks of the template let it be pooled. `grids`: rows
    and columns of visual tokens of the constant image, where the template has it. `adapter`: the place of its adapter
    among those that are chosen by row, None where none are.
    """

    input_ids_T: npt.NDArray[np.int32]
    spans_T2: npt.NDArray[np.int32]
    poolable_T: npt.NDArray[np.bool_]
    grids: Sequence[tuple[int, int]] = ()
    adapter: int | None = None


class _Words(NamedTuple):
    """The words in place of a text: `whole`, with the instruction that joins it, by the rules, and its marks.

    The text as it was sent has `length` characters, from `begin` on in what the rules were applied to.
    """

    whole: Traced
    spans: Sequence[Span] = ()
    begin: int = 0
    length: int = 0

    @property
    def filled(self) -> Filled:
        """The values that a template takes."""
        return Filled(self.whole.text, spans=self.spans)

    def sent(self, offsets: Sequence[tuple[int, int]], at: int) -> npt.NDArray[np.int32]:
        """Return int32 [T, 2]: what of the text as it was sent lies in tokens, of a prompt where it begins `at`.

        Offsets are in code points of what was tokenized, before the tokenizer normalises it; (0, 0) for a token outside
        the text. A token takes the space before its word along; the tokens of one character all span it; letters
        composed from several characters span the first.
        """
        inside_T2 = np.clip(np.array(offsets, np.int32).reshape(-1, 2) - np.int32(at), 0, len(self.whole.text))
        spans_T2 = np.clip(self.whole.spans(*inside_T2.T) - np.int32(self.begin), 0, self.length)
        spans_T2[spans_T2[:, 0] == spans_T2[:, 1]] = 0
        return spans_T2


_NO_WORDS = _Words(traced(""))


class PromptEncoder:
    """Fills the recipe's templates and tokenizes them, special tokens included where the recipe wants them."""

    def __init__(self, preparation: Preparation, tokenizer_file: Path) -> None:
        self._preparation = preparation
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(f"tokenizer.json: {error}. Use the tokenizer of the checkpoint.") from None
        # Cutting and padding are ours, whatever a checkpoint stored there: cutting would be silent.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.add_tokens(list(preparation.added_tokens))
        image_token = preparation.image_token
        self.image_token_id = None if image_token is None else self._id(image_token, "its image token")
        self._unpooled = [self._id(token, "one that is not pooled") for token in preparation.unpooled_tokens]
        augmentation = preparation.augmentation
        self._augmentation = Filled(augmentation.token * augmentation.count if augmentation else "")
        self._constant = Filled(preparation.image_token or "")
        self._templates = {
            role: {kind: Template(source) for kind, source in templates(words).items()}
            for role, words in preparation.prompts.items()
        }
        contents = {} if preparation.pair is None else preparation.pair.contents
        self._sides = {kind: Template(source) for kind, source in templates(contents).items()}

    def _id(self, token: str, what: str) -> int:
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(
                f"tokenizer.json has no token {token!r}, which the recipe names as {what}. Use the tokenizer of the "
                "checkpoint."
            )
        return found

    def lengths(self, path: ItemPath) -> Range | None:
        """Return how many tokens an item of a path has beside those of its own images; None where it has no prompt."""
        preparation = self._preparation
        if path is IMAGE and preparation.instruction is None and ("image", "text") not in preparation.kinds:
            most = 1 if preparation.images is None else preparation.images.most
            several: dict[ContentKind, int] = {("image",): 1, ("images",): most}
            counts = [
                self._beside(by_kind[kind], count)
                for by_kind in self._templates.values()
                for kind, count in several.items()
                if kind in by_kind
            ]
            return Range(min(counts), max(counts)) if all(counts) else None
        return Range(1, preparation.beside_images(path))

    def _beside(self, template: Template, images: int) -> int:
        """Return how many tokens a prompt of so many images has beside its image tokens."""
        filled = template.fill({"augmentation": self._augmentation, "images": self._images(images)}).prompt
        return len(self._encode(filled).ids) - images if filled else 0

    def prefixes(self) -> list[Ids]:
        """Return the ids with which all prompts begin, whatever they hold, for each instruction that has a name.

        The default's are first. Behind them are those with which all of one template begin, where it has the constant
        image, which stands in no other. A content may still change the last of them: a line break of its own joins that
        of the template.
        """
        preparation, given = self._preparation, self._preparation.instruction
        named = [words for task in preparation.tasks.values() for words in task.instructions]
        words = [""] if given is None else dict.fromkeys([given.default, *named])
        found: list[Ids] = []
        for word in words:
            begun = [(template, list(self._begun(template, word))) for template in self._all_templates()]
            found.append(shared_prefix(ids for _, both in begun for ids in both))
            found += [shared_prefix(both) for template, both in begun if self._grids(template)]
        # Templates of several roles may be alike.
        return [np.array(ids, np.int32) for ids in dict.fromkeys(tuple(ids_J.tolist()) for ids_J in found) if ids]

    def _all_templates(self) -> list[Template]:
        pair = [] if self._preparation.pair is None else [Template(self._preparation.pair.prompt)]
        return [*pair, *(one for by_kind in self._templates.values() for one in by_kind.values())]

    def _begun(self, template: Template, instruction: str) -> Iterator[list[int]]:
        """The ids of a prompt twice, up to an image of the item, with contents that have no first token in common."""
        for content in ("a", "1"):
            text = self._words(content, instruction).filled
            values = {**dict.fromkeys(FIELDS, Filled(content)), "text": text, "instruction": Filled(instruction)}
            values |= {"augmentation": self._augmentation, "constant_image": self._constant}
            filled = template.fill(values)
            encoding = self._encode(filled.prompt)
            # A blank before a text joins the first word of some, whatever it does here.
            end = len(filled.prompt[: filled.begins.get("text")].rstrip(" "))
            ids = [one for one, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True) if begin < end]
            token, constant = self.image_token_id, sum(map(math.prod, self._grids(template)))
            if token is None or token not in ids:
                yield ids
            else:
                image = ids.index(token)
                yield [*ids[:image], *[token] * constant, *ids[image + 1 :]] if constant else ids[:image]

    def _grids(self, template: Template) -> list[tuple[int, int]]:
        """Return rows and columns of visual tokens of the constant image, where a template has it."""
        return [self._preparation.constant_grid] if template.count("constant_image") else []

    def _encode(self, prompt: str) -> Encoding:
        encoding: Encoding = self._tokenizer.encode(prompt, add_special_tokens=self._preparation.special_tokens)
        return encoding

    def check(self, asked: Asked) -> None:
        """Raise `PreparationError` for an instruction or a task of pairs that this retriever does not take."""
        decided_of_pairs(self._preparation, asked)

    def embedded(self, content: Content, asked: Asked) -> Prompt | None:
        """Return ids and spans of a content in a role; None for an image that has no prompt.

        Raises `PreparationError` for empty, long and unfit texts and for an unknown role or task.
        """
        role, kind, instruction, adapter = decided(self._preparation, content.kind, asked)
        template = self._templates[role][kind]
        if not template.source:
            return None
        words = self._checked(content.text, instruction)
        filled = template.fill({**self._values(content, words), "instruction": Filled(instruction)})
        grids, most = self._grids(template), self._preparation.limits.text_tokens_of(role)
        visual_tokens = [*content.visual_tokens, *map(math.prod, grids)]
        return self._tokenized(filled, visual_tokens, words, most)._replace(grids=grids, adapter=adapter)

    def pair(self, query: Content, document: Content, asked: Asked) -> Prompt:
        """Return the ids of a query and a document in one prompt. Raises `PreparationError` as `embedded`."""
        pair = self._preparation.pair
        assert pair is not None
        sides = {
            side: self._sides[content.kind].fill(self._values(content, self._checked(content.text, "")))
            for side, content in (("query", query), ("document", document))
        }
        instruction, adapter = decided_of_pairs(self._preparation, asked)
        filled = Template(pair.prompt).fill({**sides, "instruction": Filled(instruction)})
        visual_tokens = [*query.visual_tokens, *document.visual_tokens]
        most = self._preparation.limits.text_tokens
        return self._tokenized(filled, visual_tokens, _NO_WORDS, most)._replace(adapter=adapter)

    def _values(self, content: Content, words: _Words) -> Mapping[str, Filled]:
        shown = len(content.visual_tokens)
        return {
            "text": words.filled,
            "images": self._images(shown),
            "video": joined(self._frames(shown)) if "video" in content.kind else Filled(""),
            "augmentation": self._augmentation,
            "constant_image": self._constant,
        }

    def _checked(self, text: str | None, instruction: str) -> _Words:
        """Return what stands in place of a text, if there is one. Raises `PreparationError` for one that is unfit."""
        if text is not None:
            check_size(text, self._preparation.limits)
        words = self._words(text, instruction)
        if text is not None:
            check_words(words.whole.text, self._preparation.image_token)
        return words

    def _words(self, text: str | None, instruction: str) -> _Words:
        """Return what stands in place of a text: where an instruction joins it both, else the text, by the rules.

        Without a text there is no white space that would part it from the instruction.
        """
        rules, given = self._preparation.text_rules, self._preparation.instruction
        length = len(text or "")
        if given is None or given.prompt is None or not instruction:
            return _Words(traced(text or "", rules), (), 0, length)
        prompt = given.prompt if text is not None else re.sub(r"\s*\{text\}\s*", "", given.prompt)
        joined = Template(prompt).fill({"instruction": Filled(instruction), "text": Filled(text or "")})
        whole = traced(joined.prompt, rules)
        spans = [Span(span.mark, whole.place(span.begin), whole.place(span.end)) for span in joined.spans]
        return _Words(whole, spans, joined.begins.get("text", 0), length)

    def _images(self, count: int) -> Filled:
        """Return the prompt of so many images in one item, where it may have several."""
        several = self._preparation.images
        return Filled("") if several is None else joined([Template(several.image).fill({})] * count)

    def _frames(self, groups: int) -> list[Filled]:
        """Return the prompt of each group of frames. Source: transformers `Qwen3VLProcessor`."""
        video, size = self._preparation.video, self._preparation.page_policy.temporal_patch_size
        assert video is not None
        frame, fps = Template(video.frame), video.fps
        if fps is None:
            return [frame.fill({})] * groups
        seconds = [(group * size + (size - 1) / 2) / fps for group in range(groups)]
        return [frame.fill({"seconds": Filled(f"{time:.1f}")}) for time in seconds]

    def _tokenized(self, filled: Filled, visual_tokens: Sequence[int], words: _Words, most: int) -> Prompt:
        """Return the prompt's ids with each image token repeated once a visual token; `most` beside these."""
        limits, encoding = self._preparation.limits, self._encode(filled.prompt)
        ids_T, spans_T2 = np.array(encoding.ids, np.int32), words.sent(encoding.offsets, filled.begins.get("text", 0))
        poolable_T = _poolable(encoding.offsets, filled.spans) & ~np.isin(ids_T, self._unpooled)
        is_image_T = np.zeros(len(ids_T), bool) if self.image_token_id is None else ids_T == self.image_token_id
        beside, visual = int(np.count_nonzero(~is_image_T)), sum(visual_tokens)
        if beside > most:
            raise PreparationError(f"has {beside} tokens, above the limit of {most}", "Shorten or split it")
        if limits.tokens is not None and beside + visual > limits.tokens:
            raise PreparationError(
                f"has {beside + visual} tokens, {visual} of them visual, above the limit of {limits.tokens}",
                "Send a shorter text, or fewer or smaller images",
            )
        counts_T = np.ones(len(ids_T), np.int64)
        counts_T[is_image_T] = visual_tokens
        return Prompt(
            np.repeat(ids_T, counts_T), np.repeat(spans_T2, counts_T, axis=0), np.repeat(poolable_T, counts_T)
        )


def _poolable(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Return bool [T]: whether the first character of a token is where marks let it be pooled."""
    begins_T, ends_T = np.array(offsets, np.int32).reshape(-1, 2).T

    def marked(mark: str) -> npt.NDArray[np.bool_]:
        inside_T = np.zeros(len(begins_T), bool)
        for _, begin, end in (span for span in spans if span.mark == mark):
            inside_T |= (begin <= begins_T) & (begins_T < end) & (begins_T < ends_T)
        return inside_T

    # A mark that encloses nothing still says that nothing else is pooled.
    only = any(span.mark == "pooled" for span in spans)
    return (marked("pooled") if only else np.ones(len(begins_T), bool)) & ~marked("unpooled")
