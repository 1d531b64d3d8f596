"""Words about an item beside its content, and what they decide: whose prompt, which instruction, which adapter."""

from __future__ import annotations

from typing import NamedTuple

from periscope_runtime.errors import PreparationError
from periscope_runtime.kinds import ContentKind, plural
from periscope_runtime.recipe import Preparation, Task
from periscope_runtime.text_checks import check_size, check_words
from periscope_runtime.text_rules import traced


class Asked(NamedTuple):
    """Words about an item beside its content: its role, and the task of the model, in words or by name."""

    role: str | None = None
    instruction: str | None = None
    task: str | None = None


class Decided(NamedTuple):
    """The outcome: the role and the kind whose template an item has, its instruction, and its adapter.

    `kind`: that of the content, with a text where an instruction joins it.
    `adapter`: its place among those that are chosen by row (`Preparation.stacked`); None where none are.
    """

    role: str
    kind: ContentKind
    instruction: str
    adapter: int | None


def decided(preparation: Preparation, content: ContentKind, asked: Asked) -> Decided:
    """Return what is decided of an item with a kind of content.

    Raises `PreparationError` for an unknown role or task, and for an instruction or a task that would be lost.
    """
    task, first = _task(preparation, asked), preparation.roles(content)[0]
    instruction = _instruction(preparation, task, asked, asked.role or first)
    kind = _kind(preparation, content, instruction)
    # The role whose instruction it has, where that takes what comes of joining both.
    own = first if first in preparation.roles(kind) else None
    role = _role(preparation, kind, own if asked.role is None else asked.role)
    _check_role(preparation, task, asked, role)
    return Decided(task.prompts.get(role, role), kind, instruction, _adapter(preparation, task, asked, role))


def decided_of_pairs(preparation: Preparation, asked: Asked) -> tuple[str, int | None]:
    """Return the instruction and the adapter of pairs, which have no role. Raises `PreparationError` likewise."""
    task = _task(preparation, asked)
    return _instruction(preparation, task, asked, None), _adapter(preparation, task, asked, None)


def _task(preparation: Preparation, asked: Asked) -> Task:
    """Return the task that is asked for, else the default one."""
    tasks = preparation.tasks
    if asked.task is None:
        return Task() if preparation.task is None else tasks[preparation.task]
    if asked.task not in tasks:
        if not tasks and preparation.instruction is None:
            raise PreparationError("has an instruction or a task, which this retriever does not take", "Leave it out")
        raise PreparationError(
            f"has the task {asked.task!r}, which this retriever does not know",
            f"Use one of {list(tasks)}" if tasks else "Send an instruction",
        )
    return tasks[asked.task]


def _instruction(preparation: Preparation, task: Task, asked: Asked, role: str | None) -> str:
    given, of_task = preparation.instruction, task.instruction_in(role)
    if given is None:
        if asked.instruction is not None:
            what = "an instruction" if preparation.tasks else "an instruction or a task"
            raise PreparationError(f"has {what}, which this retriever does not take", "Leave it out")
        return ""
    if asked.instruction is None:
        takes = given.roles is None or role is None or role in given.roles
        return of_task if of_task is not None and takes else given.default
    if asked.task is not None and of_task is not None:
        raise PreparationError("has both an instruction and a task with one of its own", "Send one of them")
    check_size(asked.instruction, preparation.limits, "has an instruction that ")
    words = traced(asked.instruction, given.rules).text
    check_words(words, preparation.image_token, "has an instruction that ")
    return words


def _kind(preparation: Preparation, kind: ContentKind, instruction: str) -> ContentKind:
    """Return the kind of a content with an instruction: one that joins the text is a text beside an image.

    Raises `PreparationError` where there is no prompt for that.
    """
    given = preparation.instruction
    if given is None or given.prompt is None or not instruction or "text" in kind:
        return kind
    both: ContentKind = (*kind, "text")
    if both not in preparation.kinds:
        raise PreparationError("has an instruction, which this retriever takes for texts alone", "Leave it out")
    return both


def _role(preparation: Preparation, kind: ContentKind, role: str | None) -> str:
    roles = preparation.roles(kind)
    if role is not None and role not in roles:
        raise PreparationError(
            f"has the role {role!r}, which this retriever does not know for {plural(kind)}", f"Use one of {roles}"
        )
    return role or roles[0]


def _check_role(preparation: Preparation, task: Task, asked: Asked, role: str) -> None:
    """Raise `PreparationError` for an instruction in a role that takes none: it would be lost."""
    given = preparation.instruction
    of_task = asked.task is not None and task.instruction_in(role) is not None
    if given is None or given.roles is None or role in given.roles or not (asked.instruction is not None or of_task):
        return
    raise PreparationError(
        f"has an instruction or a task in the role {role!r}, in which this retriever takes none",
        f"Leave it out, or send it in one of {list(given.roles)}",
    )


def _adapter(preparation: Preparation, task: Task, asked: Asked, role: str | None) -> int | None:
    if not preparation.adapters:
        return None
    name = task.adapter_in(role)
    if name is None:
        raise PreparationError(
            f"has the role {role!r}, in which the task {asked.task or preparation.task!r} has no adapter here",
            f"Use one of {sorted(task.adapter)}" if isinstance(task.adapter, dict) else "Name another task",
        )
    return preparation.stacked.index(name) if preparation.stacked else None
