"""The preparation of an export with one adapter, of a system with several: the tasks that it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from periscope_runtime.recipe import Preparation, Task


def of_one_adapter(preparation: Preparation, name: str) -> Preparation:
    """Return a preparation with the tasks of one adapter alone, the first of which is the default if that is not there.

    `name` is the adapter's, or that of a task with one adapter. Raises `ValueError` for a name of neither, for a task
    with several adapters, and where no task has one.
    """
    if not preparation.adapters:
        raise ValueError(f"adapters.task (--task) is {name!r}, and this system has no adapters of tasks: leave it out")
    task = preparation.tasks.get(name)
    adapters = sorted({*(() if task is None else task.adapters)}) or [name]
    if len(adapters) > 1:
        raise ValueError(f"the task {name!r} has several adapters, task is one of {', '.join(adapters)}")
    (adapter,) = adapters
    if adapter not in preparation.adapters:
        raise ValueError(f"there is no task {name!r}, task is one of {', '.join(preparation.adapters)}")
    tasks = dict(_with(preparation.tasks, adapter))
    return replace(preparation, tasks=tasks, task=preparation.task if preparation.task in tasks else next(iter(tasks)))


def _with(tasks: dict[str, Task], adapter: str) -> Iterator[tuple[str, Task]]:
    """Yield the tasks that have an adapter, in those roles alone that have it."""
    for name, task in tasks.items():
        if adapter in task.adapters:
            by_role = task.adapter
            if isinstance(by_role, dict):
                by_role = {role: one for role, one in by_role.items() if one == adapter}
            yield name, replace(task, adapter=by_role)
