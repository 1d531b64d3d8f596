"""Fields of a preparation that do not go together: templates that lack a field, sections that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from periscope_runtime.kinds import ContentKind, parsed, templates
from periscope_runtime.template import MARKS, Template

if TYPE_CHECKING:
    from periscope_runtime.recipe.preparation import Preparation


def problems(preparation: Preparation) -> Iterator[str]:
    """Yield a line for each."""
    yield from _templates(preparation)
    yield from _visual(preparation)
    yield from _video(preparation)
    yield from _tiles(preparation)
    yield from _constant_image(preparation)
    yield from _words(preparation)
    yield from _tasks(preparation)
    yield from _pooling(preparation)


def _templates(preparation: Preparation) -> Iterator[str]:
    image_token = preparation.image_token
    for role, prompts in preparation.prompts.items():
        for word, source in prompts.items():
            # Without a prompt there is nothing to check: the image tower makes the only state.
            if word != "image" or source:
                yield from _check(f"the {word} prompt of the role {role!r}", source, parsed(word), image_token)
    if preparation.pair is not None:
        for word, source in preparation.pair.contents.items():
            yield from _check(f"the pair's {word}", source, parsed(word), image_token)
        for field in ("query", "document"):
            yield from _once("the pair's prompt", Template(preparation.pair.prompt), field, 1)
        yield from _marks("the pair's prompt", Template(preparation.pair.prompt))
    repeated = {} if preparation.video is None else {"the video's frame": preparation.video.frame}
    if preparation.images is not None:
        repeated["images.image"] = preparation.images.image
    for what, source in repeated.items():
        yield from _marks(what, Template(source))
        if image_token is not None and source.count(image_token) != 1:
            yield f"{what} must hold {image_token} once"


def _visual(preparation: Preparation) -> Iterator[str]:
    kinds = _kinds(preparation)
    videos, visual = any("video" in kind for kind in kinds), any(kind != ("text",) for kind in kinds)
    if videos != (preparation.video is not None):
        yield "prompts for videos and the section video need each other"
    if any("images" in kind for kind in kinds) != (preparation.images is not None):
        yield "prompts for several images and the section images need each other"
    if visual != (preparation.image is not None):
        yield "prompts for images or videos and the section image need each other"
    if preparation.image is None and preparation.image_token is not None:
        yield "image_token needs the section image"
    if preparation.image_token is None and preparation.positions == "mrope":
        yield "positions mrope needs image_token"


def _video(preparation: Preparation) -> Iterator[str]:
    video = preparation.video
    if video is None:
        return
    if (video.fps is not None) != (times := "{seconds}" in video.frame):
        yield f"video.frame {'with' if times else 'without'} {{seconds}} needs {'fps' if times else 'no fps'}"
    if preparation.positions == "mrope" and video.frame == preparation.image_token:
        yield "frames without words between them need positions sequential: mrope has a grid for each group of frames"
    if preparation.image is not None and preparation.image.max_aspect_ratio is None:
        yield "the section video needs image.max_aspect_ratio: a narrow frame would have no largest size"


def _tiles(preparation: Preparation) -> Iterator[str]:
    if preparation.image is None or preparation.image.tiles is None:
        return
    if preparation.positions == "mrope":
        yield "tiles need positions sequential: mrope has one grid for an image"
    if preparation.video is not None:
        yield "tiles are for pages, and the section video excludes them"
    if any(templates.get("image") == "" for templates in preparation.prompts.values()):
        yield "tiles need a prompt for images: a tower that pools itself makes one state of one image"


def _constant_image(preparation: Preparation) -> Iterator[str]:
    constant, image = preparation.constant_image, preparation.image
    texts = [words[kind] for words in preparation.prompts.values() for kind in words if kind == "text"]
    beside = [Template(source).count("constant_image") for source in texts]
    everywhere = sum(Template(source).count("constant_image") for source in _sources(preparation))
    if any(count > 1 for count in beside) or everywhere != sum(beside):
        yield "{constant_image} is for prompts of texts alone, and stands there once"
    if (constant is not None) != any(beside):
        yield "the section constant_image and a text's prompt with {constant_image} need each other"
    if constant is None:
        return
    if image is None or preparation.image_token is None:
        yield "the section constant_image needs image and image_token"
    elif image.tiles is not None:
        yield "constant_image and tiles exclude each other: a constant image is one image"
    elif image.factor >= 1 and (constant.width % image.factor or constant.height % image.factor):
        yield (
            f"constant_image has {constant.width} x {constant.height} pixels, and a visual token has {image.factor}: "
            f"both have to be multiples of {image.factor}"
        )


def _words(preparation: Preparation) -> Iterator[str]:
    """Problems of instructions, rules, limits and augmentation."""
    instruction, sources = preparation.instruction, list(_sources(preparation))
    instructed = any("{instruction}" in source for source in sources)
    if instruction is None or instruction.prompt is None:
        if instructed != (instruction is not None):
            yield "prompts with {instruction} and the section instruction need each other"
    else:
        if instructed:
            yield "prompts with {instruction} and instruction.prompt exclude each other"
        template = Template(instruction.prompt)
        for field in ("instruction", "text"):
            yield from _once("instruction.prompt", template, field, 1)
        yield from _marks("instruction.prompt", template)
    if instruction is not None and (strange := sorted({*(instruction.roles or ())} - preparation.prompts.keys())):
        yield f"instruction.roles names {', '.join(strange)}, which no prompt is for"
    if strange := sorted(preparation.limits.role_tokens.keys() - preparation.prompts.keys()):
        yield f"limits.role_tokens names {', '.join(strange)}, which no prompt is for"
    texts = any("text" in kind for kind in _kinds(preparation))
    if preparation.text_rules and not texts:
        yield "text_rules are for texts, and there is no prompt for them"
    if preparation.augmentation is not None and not any("{augmentation}" in source for source in sources):
        yield "the section augmentation needs a prompt with {augmentation}"


def _tasks(preparation: Preparation) -> Iterator[str]:
    tasks, prompts = preparation.tasks, preparation.prompts
    if preparation.task is not None and preparation.task not in tasks:
        yield f"task is {preparation.task!r}, which is none of the tasks"
    for name, task in tasks.items():
        if strange := sorted(task.roles - prompts.keys()):
            yield f"tasks.{name} names the roles {', '.join(strange)}, which no prompt is for"
        for role, other in task.prompts.items():
            if lacking := sorted(prompts.get(role, {}).keys() - prompts.get(other, {}).keys()):
                yield f"tasks.{name}.prompts: the role {other!r} has none for {', '.join(lacking)}, as {role!r} has"
    if any(task.instructions for task in tasks.values()):
        if preparation.instruction is None:
            yield "tasks with an instruction need the section instruction"
        elif preparation.instruction.prompt is not None and any(
            isinstance(task.instruction, dict) for task in tasks.values()
        ):
            for role, words in prompts.items():
                kinds = templates(words)
                if any((*kind, "text") not in kinds for kind in kinds if "text" not in kind):
                    yield (
                        f"instruction.prompt and an instruction by role need a prompt with a text for each kind of the "
                        f"role {role!r}"
                    )
    if preparation.adapters:
        if without := [name for name, task in tasks.items() if not task.adapters]:
            yield f"tasks {', '.join(without)} have no adapter, where others have one"
        if preparation.task is None:
            yield "tasks with adapters need task, the default one"
        if preparation.pair is not None and any(isinstance(task.adapter, dict) for task in tasks.values()):
            yield "adapters by role and the section pair exclude each other: pairs have no role"
    if preparation.stacked and any(words.get("image") == "" for words in prompts.values()):
        yield "several adapters need a prompt for images: a tower that pools itself has none of them"


def _pooling(preparation: Preparation) -> Iterator[str]:
    if isinstance(preparation.pooling, dict):
        paths = {path.name for path in preparation.paths}
        if lacking := sorted(paths - preparation.pooling.keys()):
            yield f"pooling lacks {', '.join(lacking)}"
        if more := sorted(preparation.pooling.keys() - paths):
            yield f"pooling names {', '.join(more)}, which this retriever does not take"


def _kinds(preparation: Preparation) -> set[ContentKind]:
    return preparation.kinds | set(() if preparation.pair is None else templates(preparation.pair.contents))


def _sources(preparation: Preparation) -> Iterator[str]:
    if preparation.pair is not None:
        yield preparation.pair.prompt
        yield from preparation.pair.contents.values()
    for prompts in preparation.prompts.values():
        yield from prompts.values()


def _check(what: str, source: str, kind: ContentKind, image_token: str | None) -> Iterator[str]:
    template = Template(source)
    yield from _once(what, template, "text", int("text" in kind))
    yield from _once(what, template, "video", int("video" in kind))
    yield from _once(what, template, "images", int("images" in kind))
    yield from _marks(what, template)
    images = 0 if image_token is None else source.count(image_token)
    if images != int("image" in kind):
        token = "the image token" if image_token is None else image_token
        yield f"{what} must hold {token} {'once' if 'image' in kind else 'not at all'}"


def _once(what: str, template: Template, field: str, times: int) -> Iterator[str]:
    if template.count(field) != times:
        yield f"{what} must hold {{{field}}} {'once' if times else 'not at all'}"


def _marks(what: str, template: Template) -> Iterator[str]:
    for mark in MARKS:
        if template.marks(mark) != [mark, f"/{mark}"] * template.count(mark):
            yield f"{what} must close each {{{mark}}} by {{/{mark}}}"
