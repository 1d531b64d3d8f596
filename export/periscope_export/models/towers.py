"""Towers of an export: each is read from the checkpoint once, and its weights stay in a file for whoever asks next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from periscope_export.checkpoint.reading import Weights
from periscope_export.models.steps import Step
from periscope_export.models.weights import load_step


class Towers:
    """The filled modules of steps, in float32, by name.

    Their weights lie in files without a name on the disk of `folder` (`mapped.py`): memory that the system takes back
    when it needs room. They are gone with this object.
    """

    def __init__(self, steps: Sequence[Step], weights: Weights, folder: Path | None = None) -> None:
        self.steps = {step.name: step for step in steps}
        self.folder = folder
        self._weights = weights
        self._modules: dict[str, nn.Module] = {}
        self._digests: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> nn.Module:
        """Return a step's module, read when it is asked for first. Raises `ExportError` as `load_step` does."""
        if name not in self._modules:
            digest = hashlib.sha256()
            step = self.steps[name]
            before = [self[other] for other in step.after]
            self._modules[name] = load_step(step, self._weights, digest, self.folder, before)
            self._digests[name] = digest.digest()
        return self._modules[name]

    @property
    def order(self) -> dict[str, list[str]]:
        """The names of the paths that each step serves, steps in order."""
        return {name: [path.name for path in step.paths] for name, step in self.steps.items()}

    @property
    def digest(self) -> bytes:
        """The digest of all weights as they are stored, of steps in order. Reads those that nobody asked for yet."""
        for name in self.steps:
            self[name]
        return b"".join(self._digests[name] for name in self.steps)
