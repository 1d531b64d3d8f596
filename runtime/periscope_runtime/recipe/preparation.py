"""The whole section `preparation` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Literal

from periscope_runtime.kinds import ContentKind, KindWord, templates
from periscope_runtime.paths import EMBEDDED, IMAGE, RERANK, TEXT, ItemPath
from periscope_runtime.recipe.coherence import problems
from periscope_runtime.recipe.image import ConstantImage, ImagePolicy, VideoPolicy
from periscope_runtime.recipe.limits import Buckets, Limits, refuse
from periscope_runtime.recipe.prompt import (
    Augmentation,
    Instruction,
    PairPrompt,
    Pooling,
    SeveralImages,
    TextRule,
)
from periscope_runtime.recipe.task import Task


@dataclass(frozen=True)
class Preparation:
    """Everything that turns texts, images and videos into the tensors of the first graph.

    `image`: how pages become patches; None for a retriever of texts alone.
    `prompts`: a template by role (query, document) and kind of content. It holds the fields that its kind has:
        `{text}`, `{video}`, `{images}`, for one image `image_token`, each once; and may hold `{instruction}` and
        `{augmentation}`. That of several images is for one as well, where that has none of its own.
        An empty template for images says that there is no prompt: the image tower alone makes one state of a page.
    `images`: what stands for each of several images in one item; None where an item has one at most.
    `constant_image`: the image that is beside texts, where their templates say so; None where none is.
    `tasks`: what each name that a caller may give changes; `task` is the one where none is given, None for none.
    `text_rules`: what happens to a text before it enters a template, in order.
    `pooling`: which tokens make the dense vector, or the score, on all paths, or by path. Where a template marks tokens
        by `{pooled}...{/pooled}` it is those alone, and never those in `{unpooled}...{/unpooled}`.
    `unpooled_tokens`: tokens that are never among those, wherever they come from: the published code takes them for
        padding, also in a text.
    `special_tokens`: whether the tokenizer puts its own around a prompt; not where a prompt holds all of them itself.
    `added_tokens`: tokens that the published code adds to the tokenizer when it runs, in order; those that the
        tokenizer has already stay as they are.

    Raises `ValueError` with all fields that do not go together.
    """

    positions: Literal["mrope", "sequential"]
    prompts: dict[str, dict[KindWord, str]]
    buckets: Buckets
    limits: Limits
    image: ImagePolicy | None = None
    image_token: str | None = None
    images: SeveralImages | None = None
    constant_image: ConstantImage | None = None
    augmentation: Augmentation | None = None
    video: VideoPolicy | None = None
    pair: PairPrompt | None = None
    instruction: Instruction | None = None
    tasks: dict[str, Task] = field(default_factory=dict)
    task: str | None = None
    text_rules: tuple[TextRule, ...] = ()
    pooling: Pooling | dict[Literal["text", "image", "video", "rerank"], Pooling] = "mean"
    unpooled_tokens: tuple[str, ...] = ()
    special_tokens: bool = True
    added_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Hold the fields together."""
        refuse(problems(self))

    @property
    def page_policy(self) -> ImagePolicy:
        """The way from pages to patches, of a retriever that takes them. Raises `ValueError` for one that does not."""
        if self.image is None:
            raise ValueError("preparation.image is missing: this retriever takes texts alone")
        return self.image

    @property
    def constant_grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens of the constant image. Raises `ValueError` where there is none."""
        if self.constant_image is None:
            raise ValueError("preparation.constant_image is missing")
        return (
            self.constant_image.height // self.page_policy.factor,
            self.constant_image.width // self.page_policy.factor,
        )

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of all adapters that compute vectors, in the order in which tasks name them."""
        return tuple(dict.fromkeys(name for task in self.tasks.values() for name in task.adapters))

    @property
    def stacked(self) -> tuple[str, ...]:
        """The adapters that are chosen by row, in the order of `adapter_index`; none where one is merged."""
        return self.adapters if len(self.adapters) > 1 else ()

    def pooled(self, path: ItemPath) -> Pooling:
        """Return which tokens make the dense vector of a path, or its score."""
        if isinstance(self.pooling, dict):
            return next(word for name, word in self.pooling.items() if name == path.name)
        return self.pooling

    def place(self, path: ItemPath) -> str | None:
        """Return the name of the tensor that says where tokens of a path come from; None where there is none.

        A page of tiles has none: its visual tokens make no one grid.
        """
        tiled = self.image is not None and self.image.tiles is not None
        return None if path is IMAGE and tiled else path.place

    @property
    def pools_last(self) -> bool:
        """Whether all vectors and scores are made of the last token alone."""
        return all(self.pooled(path) == "last" for path in self.paths)

    def roles(self, kind: ContentKind) -> list[str]:
        """Roles that take this kind of content; the first is the default."""
        return [role for role, words in self.prompts.items() if kind in templates(words)]

    def beside_images(self, path: ItemPath) -> int:
        """Return how many tokens an item of a path may have beside those of its own images, in any role that takes it.

        Those of the constant image are among them.
        """
        roles = [
            role for role, words in self.prompts.items() if any(kind[0] == path.content for kind in templates(words))
        ]
        constant = 0 if self.constant_image is None or path is not TEXT else prod(self.constant_grid)
        return max(map(self.limits.text_tokens_of, roles), default=self.limits.text_tokens) + constant

    @property
    def kinds(self) -> set[ContentKind]:
        """Kinds of content that are embedded, in any role."""
        return {kind for words in self.prompts.values() for kind in templates(words)}

    @property
    def paths(self) -> tuple[ItemPath, ...]:
        """The paths that items of this retriever take."""
        embedded = {content for content, *beside in self.kinds if not beside}
        return (*(path for path in EMBEDDED if path.content in embedded), *(() if self.pair is None else (RERANK,)))

    @property
    def visual_paths(self) -> tuple[ItemPath, ...]:
        """The paths whose items may hold images."""
        return tuple(path for path in self.paths if path.visual and self.image is not None)
