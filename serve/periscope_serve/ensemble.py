"""Checking the wiring of an ensemble against the configs of the models it joins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from periscope_serve.repository import Finding, Model, Tensor


def check(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Finding]:
    """Everything in the wiring that Triton would refuse or that cannot work."""
    steps = list(ensemble.config.ensemble_scheduling.step)
    if not steps:
        yield Finding(ensemble.name, "the ensemble has no step", "Add the steps it should run")
    for number, step in enumerate(steps, 1):
        yield from _check_step(ensemble, f"step {number} ({step.model_name})", step, models)
    yield from _check_types(ensemble, steps, models)
    yield from _check_shapes(ensemble, steps, models)
    yield from _check_flow(ensemble, steps)


def _check_step(ensemble: Model, where: str, step: Any, models: Mapping[str, Model]) -> Iterator[Finding]:
    model = models.get(step.model_name)
    if model is None:
        yield Finding(
            ensemble.name, f"{where}: there is no such model", f"Add it, or use one of: {', '.join(sorted(models))}"
        )
        return
    if step.model_version > 0 and step.model_version not in model.served:
        yield Finding(
            ensemble.name,
            f"{where}: version {step.model_version} is not served",
            f"Add it, or use -1 for the newest; served: {', '.join(map(str, model.served)) or 'none'}",
        )
    if ensemble.config.max_batch_size > model.config.max_batch_size and _is_complete(model):
        yield Finding(
            ensemble.name,
            f"{where}: max_batch_size {ensemble.config.max_batch_size} is above the step's "
            f"{model.config.max_batch_size}",
            "Lower the ensemble's or raise the step's",
        )
    if _is_complete(model):
        yield from _check_names(ensemble, f"{where}: input_map", step.input_map, model.inputs)
        yield from _check_names(ensemble, f"{where}: output_map", step.output_map, model.outputs)
        missing = [name for name, tensor in model.inputs.items() if not tensor.optional and name not in step.input_map]
        if missing:
            yield Finding(
                ensemble.name,
                f"{where}: input_map lacks {', '.join(missing)}",
                "Map every input of the step that is not optional",
            )


def _check_names(ensemble: Model, where: str, names: Any, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    for name in sorted(set(names) - set(tensors)):
        yield Finding(
            ensemble.name, f"{where} names '{name}', which the model lacks", f"It has: {', '.join(sorted(tensors))}"
        )


def _claims(ensemble: Model, steps: list[Any], models: Mapping[str, Model]) -> Iterator[tuple[str, str, Tensor, bool]]:
    """Yield everything that is said of the ensemble's tensors: its name, who says it, what, and if rows are batched."""
    for name, tensor in {**ensemble.inputs, **ensemble.outputs}.items():
        yield name, f"the ensemble's '{name}'", tensor, bool(ensemble.config.max_batch_size)
    for step in steps:
        if step.model_name in models:
            model = models[step.model_name]
            for mapping, tensors in ((step.input_map, model.inputs), (step.output_map, model.outputs)):
                for name, tensor_name in mapping.items():
                    if name in tensors:
                        who = f"{step.model_name}'s '{name}'"
                        yield tensor_name, who, tensors[name], bool(model.config.max_batch_size)


def _check_types(ensemble: Model, steps: list[Any], models: Mapping[str, Model]) -> Iterator[Finding]:
    """Every tensor has one data type, whoever speaks of it."""
    claims: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, who, tensor, _ in _claims(ensemble, steps, models):
        claims[name][tensor.data_type].append(who)
    for name, types in claims.items():
        if len(types) > 1:
            said = "; ".join(f"{data_type} for {', '.join(who)}" for data_type, who in types.items())
            yield Finding(ensemble.name, f"the tensor '{name}' has several types: {said}", "Make them one")


def _check_shapes(ensemble: Model, steps: list[Any], models: Mapping[str, Model]) -> Iterator[Finding]:
    """Every tensor has one shape, whoever speaks of it; a length that somebody leaves open agrees with any."""
    claims: dict[str, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for name, who, tensor, batched in _claims(ensemble, steps, models):
        claims[name].append((who, (-1, *tensor.dims) if batched else tensor.dims))
    for name, said in claims.items():
        (first, dims), *others = said
        for who, other in others:
            if len(dims) != len(other) or any(a != b and -1 not in (a, b) for a, b in zip(dims, other, strict=True)):
                yield Finding(
                    ensemble.name,
                    f"the tensor '{name}' is {list(dims)} for {first} and {list(other)} for {who}",
                    "Make them one",
                )


def _check_flow(ensemble: Model, steps: list[Any]) -> Iterator[Finding]:
    """Every tensor has one source and a reader."""
    produced = [tensor for step in steps for tensor in step.output_map.values()]
    read = {tensor for step in steps for tensor in step.input_map.values()}
    inputs, outputs = set(ensemble.inputs), set(ensemble.outputs)
    for name in sorted(read - inputs - set(produced)):
        yield Finding(ensemble.name, f"no step gives the tensor '{name}', and it is no input", "Map an output to it")
    for name in sorted(outputs - set(produced)):
        yield Finding(ensemble.name, f"no step gives the output '{name}'", "Map a step's output to it")
    for name in sorted({name for name in produced if produced.count(name) > 1} | (set(produced) & inputs)):
        yield Finding(ensemble.name, f"the tensor '{name}' has more than one source", "Give each its own name")
    for name in sorted((inputs | set(produced)) - read - outputs):
        yield Finding(ensemble.name, f"nothing reads the tensor '{name}'", "Triton refuses that: remove it")


def _is_complete(model: Model) -> bool:
    """Whether the config names the model's tensors; one that Triton completes cannot be checked from here."""
    return bool(model.config.input and model.config.output)
