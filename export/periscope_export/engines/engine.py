"""An engine: what runs the graphs of a repository. Export, verify and measurements ask the same class.

Each has a file of its own beside this one; importing them needs neither torch nor the engine itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from periscope_export.engines.gpu import DeviceRun
    from periscope_export.fidelity.record import Run
    from periscope_export.graphs.precision import Precision
    from periscope_export.models.steps import Step
    from periscope_export.repository.profiles import Profile

ENGINE_FILE = "engine.json"
TIMING_CACHE_FILE = "timing.cache"


class Options(NamedTuple):
    """Wishes of the user for engines that are compiled here.

    `strip_weights`: an engine without weights, to be refitted from the graph on the machine that serves it;
    `version_compatible`: one that later versions of TensorRT load too; `timing_cache`: the times that an earlier build
    on the same GPU measured.
    """

    strip_weights: bool = False
    version_compatible: bool = False
    timing_cache: bytes = b""


class Engine:
    """One engine.

    `name`: the word for it on the command line and in the files of a repository.
    `template`: the part of a step's config that differs between engines, in `model_repository/graph/`.
    `precisions`: those that it computes in.
    `default`: the one that nobody has to ask for; where None, the checkpoint's own activations decide
    (`activations.py`).
    `graphs`: the precision that graphs are stored in, where it makes its own of them when it loads them; heads are then
    left to onnxruntime, in float32.
    `profiled`: whether it works between the lengths of its profiles only.
    `compiled`: whether an export compiles graphs to plans for it.
    `keeps_prefixes`: whether the language model keeps the prefixes that prompts share (`kept_prefixes.py`), which is
    worth a mask where tokens cost more than the weights that are read for them.
    `measured_with`: the words of `fidelity.json` for fidelity that it measured itself.
    """

    name: str
    template: str
    precisions: tuple[Precision, ...]
    measured_with: str
    default: Precision | None = None
    graphs: Precision | None = None
    profiled = False
    compiled = False
    keeps_prefixes = False

    def check(self, precision: Precision | None) -> None:
        """Raise `ExportError` where this machine cannot export for it, which would else be found at the end."""

    def missing(self) -> str:
        """Return why it cannot run on this machine, "" where it can."""
        raise NotImplementedError(self.name)

    def run(self, repository: Path, retriever: str, precision: Precision) -> Run:
        """Return a function that runs the steps of a repository in it, or in what is as good here.

        Raises `ExportError` where nothing here is.
        """
        raise NotImplementedError(self.name)

    def stored(self, precision: Precision) -> Precision:
        """Return the precision in which graphs lie in a repository."""
        return self.graphs or precision

    def holds_weights_in(self, precision: Precision, tower: bool) -> Precision:
        """Return what the weights of a tower, or of a head, have to fit into: int8 and fp8 leave some as they were."""
        if self.graphs is None:
            return precision
        # Everything that it makes of its own of a stored graph, unless asked for less.
        return self.default or precision if tower else self.graphs

    def write(self, graph: Path) -> None:
        """Rewrite a tower's graph where it lies, for this engine alone; most take it as it is."""

    def template_of(self, step: Step, profiles: Sequence[Profile]) -> str:
        """Return the template for a step; what needs nothing of an engine is left to onnxruntime."""
        return self.template if profiles or step.is_tower else "onnxruntime"

    def build(
        self,
        repository: Path,
        versions: Mapping[str, Path],
        profiles: Mapping[str, Sequence[Profile]],
        options: Options,
        say: Callable[[str], None],
    ) -> None:
        """Write what it needs beside the graphs of `versions`, version folders by step; graphs stay where they are.

        `engine.json` with the profiles; and where graphs are compiled here the plans, the builder's logs, and for the
        whole repository what the builder measured. Raises `ExportError` for a missing builder and for what it refuses.
        """
        for step, version in versions.items():
            if not profiles[step]:
                continue
            built: dict[str, Any] = {}
            if self.compiled:
                say(f"{step}: compiling with {self.name}")
                built, options = self.compile(version, profiles[step], options)
            report = {"engine": self.name, **built, "profiles": [profile.as_json() for profile in profiles[step]]}
            (version / ENGINE_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        if options.timing_cache:
            (repository / TIMING_CACHE_FILE).write_bytes(options.timing_cache)

    def compile(self, version: Path, profiles: Sequence[Profile], options: Options) -> tuple[dict[str, Any], Options]:
        """Compile the graph of a version folder; return what `engine.json` says of it, and options for the next one."""
        raise NotImplementedError(self.name)

    def tidy(self, versions: Mapping[str, Path], options: Options) -> None:
        """Remove what nobody needs once fidelity is measured."""


class GpuEngine(Engine):
    """An engine that runs on a GPU, and can leave what it gives there."""

    def on_device(self, repository: Path, retriever: str) -> DeviceRun:
        """Return a function that runs the steps that are this engine's on tensors, and leaves outputs on the GPU.

        Raises `ExportError` where there is no GPU, or nothing to run it with.
        """
        raise NotImplementedError(self.name)
