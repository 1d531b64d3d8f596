"""Remedies that would pass where graphs were refused: measured, not guessed.

Other precisions of the engine are measured with the towers in torch. Of int8 and fp8, which lose most in a few kinds of
weights, the kinds of the step that brings it in are kept as they were, one by one and then together.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from periscope_export.engines.engine import Engine
from periscope_export.engines.onnxruntime import OnnxRuntime
from periscope_export.engines.runners import runner, tower_runner
from periscope_export.fidelity import gate
from periscope_export.fidelity.closeness import measure
from periscope_export.fidelity.record import Golden, Measured
from periscope_export.graphs.graph import GRAPH_FILE, example, export_graph
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.graphs.quantise import Mode, quantise, weights_of_products
from periscope_export.models.towers import Towers
from periscope_export.recipes.schema import Quantisation, Recipe
from periscope_export.repository.writing import VERSION

Say = Callable[[str], None]


@dataclass(frozen=True)
class Refusal:
    """An export that was refused. `repository` holds its graphs, of the retriever `name`."""

    recipe: Recipe
    towers: Towers
    precision: Precision
    engine: Engine
    repository: Path
    name: str
    golden: Golden
    measured: Measured

    def allows(self, precision: Precision, measured: Measured) -> bool:
        """Return whether the recipe lets this pass."""
        return not gate.problems(measured, self.recipe.tolerance[precision])


def remedy(refusal: Refusal, say: Say) -> str:
    """Return, in sentences, which `keep` list and which precisions would pass."""
    if refusal.precision == "fp32":
        return gate.REPORT
    tolerance = refusal.recipe.tolerance
    others = [
        one for one in refusal.engine.precisions if one in tolerance and one not in (refusal.precision, "int8", "fp8")
    ]
    passing, sentences = False, list[str]()
    for other in others:
        if other == "fp32":
            continue
        say(f"fidelity: not close enough; measuring the towers in {other}")
        measured = measure(refusal.golden, refusal.towers.order, tower_runner(refusal.towers, other))
        passes = refusal.allows(other, measured)
        passing |= passes
        sentences.append(f"{other} would {'' if passes else 'not '}pass, by the towers in torch ({_said(measured)}).")
    if refusal.precision in ("int8", "fp8") and passing:
        sentences.insert(0, _keep(refusal, refusal.precision, say))
    return " ".join((*sentences, "fp32, with --engine onnxruntime, is what all is compared with."))


def _said(measured: Measured) -> str:
    cosine, error = measured["vectors"]["min_cosine"], measured["retrieval"]["max_error_by_token"]
    return f"lowest cosine {cosine:.4f}, scores within {error:.1e} a token"


def _keep(refusal: Refusal, mode: Mode, say: Say) -> str:
    """Say which kinds of weights have to be kept."""
    step = gate.furthest_step(refusal.measured, refusal.recipe.tolerance[mode])
    how = refusal.recipe.quantisation[mode].get(step)
    if how is None:
        return f"Nothing of {step} is quantised."
    with tempfile.TemporaryDirectory(dir=refusal.repository) as scratch:
        trial = _Trial(refusal, mode, step, how, Path(scratch))
        measured = list[Measured]()

        def passes(*kinds: str) -> bool:
            measured.append(trial(kinds))
            say(f"fidelity: with {', '.join(kinds)} of {step} kept: {_said(measured[-1])}")
            return refusal.allows(mode, measured[-1])

        kinds = trial.kinds()
        for kind in kinds:
            if passes(kind):
                return f"{mode} would pass with {trial.settings((kind,))} ({_said(measured[-1])})."
        cosines = {kind: one["vectors"]["mean_cosine"] for kind, one in zip(kinds, measured, strict=True)}
        best = sorted(kinds, key=cosines.__getitem__, reverse=True)
        # All of them would be another precision.
        for count in range(2, len(best)):
            if passes(*best[:count]):
                return f"{mode} would pass with {trial.settings(best[:count])} ({_said(measured[-1])})."
    return f"No keep list of {step} is enough for {mode}."


class _Trial:
    """A repository like the refused one but for a step, of which more weights are kept."""

    def __init__(self, refusal: Refusal, mode: Mode, step: str, how: Quantisation, folder: Path) -> None:
        self._refusal, self._mode, self._how, self._folder = refusal, mode, how, folder
        towers, stored = refusal.towers, refusal.engine.stored(mode)
        self._tower = towers.steps[step]
        module = cast(towers[step], stored, folder)
        tensors = example(self._tower, refusal.golden)
        self._graph = export_graph(at(self._tower, stored), module, tensors, folder / "plain")
        for other in towers.steps.keys() - {step}:
            (folder / f"{refusal.name}_{other}").symlink_to(refusal.repository / f"{refusal.name}_{other}")

    def kinds(self) -> list[str]:
        """Return patterns for the kinds of weights that are quantised, those with the fewest numbers first."""
        sizes: dict[str, int] = {}
        for weight, size in weights_of_products(self._graph).items():
            if not any(re.search(pattern, weight) for pattern in self._how.keep):
                kind = re.sub(r"\d+", r"\\d+", ".".join(weight.removesuffix(".weight").split(".")[-2:]))
                sizes[kind] = sizes.get(kind, 0) + size
        return sorted(sizes, key=sizes.__getitem__)

    def __call__(self, kinds: Sequence[str]) -> Measured:
        """Quantise with these kinds kept, and measure."""
        refusal, engine = self._refusal, self._refusal.engine
        quantised = self._folder / f"{refusal.name}_{self._tower.name}" / VERSION / GRAPH_FILE
        samples = [refusal.golden[path.name] for path in self._tower.paths]
        quantise(self._graph, quantised, self._mode, samples, *self._lists(kinds))
        engine.write(quantised)
        # Nothing is compiled for a trial.
        measured_in = OnnxRuntime() if engine.compiled else engine
        _, run = runner(refusal.towers, self._mode, measured_in, self._folder, refusal.name)
        return measure(refusal.golden, refusal.towers.order, run)

    def settings(self, kinds: Sequence[str]) -> str:
        """Return the command line's words for it."""
        keep, per_token = self._lists(kinds)
        where = f"quantisation.{self._mode}.{self._tower.name}"
        lists = {"keep": keep} if per_token == self._how.per_token else {"keep": keep, "per_token": per_token}
        return " ".join(f"--set '{where}.{name}=[{', '.join(patterns)}]'" for name, patterns in lists.items())

    def _lists(self, kinds: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return what is kept, and what of the recipe's `per_token` still finds a weight that is not."""
        keep = [*self._how.keep, *kinds]
        left = [
            weight
            for weight in weights_of_products(self._graph)
            if not any(re.search(pattern, weight) for pattern in keep)
        ]
        return keep, [pattern for pattern in self._how.per_token if any(re.search(pattern, weight) for weight in left)]
