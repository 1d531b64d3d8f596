"""The part of a recipe about tasks: what a name that a caller gives changes of the preparation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """The changes that a task makes; what it does not say is as without it.

    `instruction`: the words of its instruction, for all roles or by role; None for the default ones.
    `adapter`: the name of the adapter that computes its vectors, for all roles or by role; None for none.
    `prompts`: by role, the role whose prompts it takes instead of its own.
    """

    instruction: str | dict[str, str] | None = None
    adapter: str | dict[str, str] | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of its adapters: one, or one a role, or none."""
        return _values(self.adapter)

    @property
    def instructions(self) -> tuple[str, ...]:
        """Its instructions, likewise."""
        return _values(self.instruction)

    @property
    def roles(self) -> set[str]:
        """The roles that it names."""
        by_role = (one for one in (self.instruction, self.adapter) if isinstance(one, Mapping))
        return {*self.prompts, *self.prompts.values(), *(role for one in by_role for role in one)}

    def instruction_in(self, role: str | None) -> str | None:
        """Return the instruction in a role, or of a pair, which has none; None for the default one."""
        return _in_role(self.instruction, role)

    def adapter_in(self, role: str | None) -> str | None:
        """Return the name of the adapter likewise; None where there is none in this role."""
        return _in_role(self.adapter, role)


def _values(by_role: str | Mapping[str, str] | None) -> tuple[str, ...]:
    if isinstance(by_role, Mapping):
        return tuple(by_role.values())
    return () if by_role is None else (by_role,)


def _in_role(by_role: str | Mapping[str, str] | None, role: str | None) -> str | None:
    return by_role.get(role or "") if isinstance(by_role, Mapping) else by_role
