"""Files of sentence-transformers beside the weights: how states become a vector, and prompts.

`modules.json` lists what comes after the model (pooling, dense layers, normalisation), a folder with a `config.json`
each; `config_sentence_transformers.json` holds prompts and the similarity. Both say of a dense output what a recipe
says, and win over it. What no recipe can say is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from periscope_export.checkpoint.reading import Checkpoint, WeightSource
from periscope_export.errors import ExportError
from periscope_export.recipes.schema import DenseLayer, Recipe

_MODULES, _CONFIG = "modules.json", "config_sentence_transformers.json"
# The word of `preparation.pooling` for a mode of the class Pooling. The second form of its config has a field for each.
_POOLINGS = {"mean": "mean", "lasttoken": "last"}
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# The word of `outputs.dense.layers` for the class of an activation; a config without one means the class's default.
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
# Roles of prompts by the names that `encode_query` and `encode_document` look for, the first that there is.
_ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}

_REMEDY = (
    "Export a checkpoint whose vectors are made in another way. Over pooling and dense layers you may decide yourself, "
    "with --set preparation.pooling and --set outputs.dense.layers."
)


class Told(NamedTuple):
    """A recipe field, what the checkpoint says of it, and where."""

    field: str
    value: Any
    place: str


@dataclass(frozen=True)
class _Module:
    kind: str
    path: str
    config: Mapping[str, Any]


def told(
    checkpoint: Checkpoint, recipe: Recipe, width: int, settings: Iterable[str] = ()
) -> tuple[list[Told], list[str]]:
    """Return what these files say of a recipe's fields, and a line for each thing that they say and that is no field.

    Nothing for a recipe without a dense output. `width` is that of the states, `settings` are the fields that the user
    sets, of which nothing is read. Raises `ExportError` for what cannot be served as they say.
    """
    dense, set_by_user = recipe.outputs.dense, set(settings)
    if dense is None:
        return [], []
    found, notes = list[Told](), list[str]()
    modules = _modules(checkpoint)
    after = [module for module in modules[1:] if module.kind != "Dropout"]
    problems = [] if not modules else list(_order(modules[0], after))
    for module in after:
        if module.kind == "Pooling" and "preparation.pooling" not in set_by_user:
            mode, problem = _pooling(module)
            problems += problem
            found.append(Told("preparation.pooling", mode, f"{module.path}/config.json"))
    if "outputs.dense.layers" not in set_by_user:
        layers, problem = _layers([module for module in after if module.kind == "Dense"], width)
        problems += problem
        if layers:
            found.append(Told("outputs.dense.layers", layers, _MODULES))
            width = layers[-1]["outputs"]
    if dense.dimensions is not None and dense.dimensions > width and "outputs.dense.dimensions" not in set_by_user:
        found.append(Told("outputs.dense.dimensions", width, _MODULES))
    config = checkpoint.json(_CONFIG) or {}
    normalised = not modules or any(module.kind == "Normalize" for module in after)
    similarity = config.get("similarity_fn_name") or "cosine"
    if not normalised and similarity == "cosine":
        notes.append(f"{_MODULES} has no Normalize; vectors are served with length 1, which changes no cosine")
    elif not normalised:
        problems.append(f"there is no Normalize, vectors are served with length 1, and {similarity} depends on it")
    if problems:
        raise ExportError(f"{_MODULES}: {'; '.join(problems)}. {_REMEDY}")
    prompts, unserved = _prompts(config, recipe)
    return [*found, *(one for one in prompts if one.field not in set_by_user)], [*notes, *unserved]


def with_dense_layers(checkpoint: Checkpoint, layers: Sequence[DenseLayer], width: int) -> Checkpoint:
    """Return the checkpoint with the weights of dense layers over states of a `width`, which lie in their own folders.

    Raises `ExportError` for layers that do not begin with the width, for a folder that is not there, and for one that
    holds other weights than a layer has.
    """
    weights = checkpoint.weights
    if layers and layers[0].inputs != width:
        raise ExportError(
            f"recipe: outputs.dense.layers: {layers[0].path} takes {layers[0].inputs} dimensions, and the states have "
            f"{width}. Correct what is set."
        )
    for number, layer in enumerate(layers):
        config = checkpoint.file(f"{layer.path}/config.json")
        if config is None:
            raise ExportError(
                f"checkpoint: there is no {layer.path}/config.json. Add the folder, which has the weights."
            )
        source = WeightSource.find(config.parent)
        wanted = ["linear.bias", "linear.weight"] if layer.bias else ["linear.weight"]
        if source.keys() != wanted:
            raise ExportError(
                f"checkpoint: {layer.path} holds {', '.join(source.keys())}, and its config.json describes "
                f"{', '.join(wanted)}. Take both from one checkpoint."
            )
        for stored in wanted:
            name = f"dense_head.layers.{number}.{stored.removeprefix('linear.')}"
            read = partial(source.read, stored)
            weights = weights.having(name, source.info(stored), read, f"{layer.path}/{stored}")
    return replace(checkpoint, weights=weights)


def _modules(checkpoint: Checkpoint) -> list[_Module]:
    listed = checkpoint.json_list(_MODULES) or []
    modules = []
    for entry in listed:
        kind, path = str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))
        # A name with a way out in it could point outside the checkpoint.
        if path.startswith("/") or ".." in path.split("/"):
            raise ExportError(f"{_MODULES}: {path!r} is no folder of the checkpoint. Download it again.")
        modules.append(_Module(kind, path, (path and checkpoint.json(f"{path}/config.json")) or {}))
    return modules


def _order(first: _Module, after: list[_Module]) -> Iterator[str]:
    """Yield a line for each module that is unknown, or not where it is in what can be served."""
    order = ("Pooling", "Dense", "Normalize")
    # A class of the checkpoint's own has whatever name before that.
    if not first.kind.endswith("Transformer"):
        yield f"it begins with {first.kind}, not with a Transformer"
    if first.path:
        yield f"the model lies in {first.path}, not beside {_MODULES}"
    kinds = [module.kind for module in after]
    yield from (f"{module.path or module.kind} is a {module.kind}" for module in after if module.kind not in order)
    known = [order.index(kind) for kind in kinds if kind in order]
    if known != sorted(known) or any(kinds.count(kind) > 1 for kind in ("Pooling", "Normalize")):
        yield f"its order is {', '.join(kinds)}, not Pooling, Dense, Normalize"


def _pooling(module: _Module) -> tuple[str | None, list[str]]:
    config = module.config
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for field, mode in _MODES.items() if config.get(field)] or ["mean"]
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or str(modes[0]) not in _POOLINGS:
        return None, [f"{module.path} pools by {' and '.join(map(str, modes))}, not by mean or lasttoken"]
    if modes == ["mean"] and config.get("include_prompt") is False:
        return None, [f"{module.path} leaves the prompt out of the mean (include_prompt)"]
    return _POOLINGS[modes[0]], []


def _layers(modules: Iterable[_Module], width: int) -> tuple[list[dict[str, Any]], list[str]]:
    layers, problems = list[dict[str, Any]](), list[str]()
    for module in modules:
        config, wrong = module.config, list[str]()
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        name = activation.rpartition(".")[2]
        read = config.get("module_input_name") or "sentence_embedding"
        written = config.get("module_output_name") or read
        if not activation.startswith("torch.nn.") or name not in _ACTIVATIONS:
            wrong.append(f"activation_function is {activation}, not one of {', '.join(_ACTIVATIONS)}")
        if (read, written) != ("sentence_embedding", "sentence_embedding"):
            wrong.append(f"it maps {read} to {written}, not the vector itself")
        if config.get("use_residual"):
            wrong.append("it adds what it is given (use_residual)")
        if config.get("in_features") != width:
            wrong.append(f"in_features is {config.get('in_features')}, and what comes to it is {width} wide")
        outputs = config.get("out_features")
        if not isinstance(outputs, int) or outputs < 1:
            wrong.append(f"out_features is {outputs}")
        problems += [f"{module.path}: {one}" for one in wrong]
        if wrong or not isinstance(outputs, int):
            break
        layer = {"inputs": width, "outputs": outputs, "bias": bool(config.get("bias", True))}
        layers.append({"path": module.path, **layer, "activation": _ACTIVATIONS[name]})
        width = outputs
    return layers, problems


def _prompts(config: Mapping[str, Any], recipe: Recipe) -> tuple[list[Told], list[str]]:
    """Return what prompts with a name are in the recipe's words, and a line for each that nothing there stands for.

    They stand before the text, or, where a recipe takes instructions, are instructions.
    """
    stored = config.get("prompts") or {}
    if not isinstance(stored, dict) or not all(isinstance(text, str | None) for text in stored.values()):
        raise ExportError(f"{_CONFIG}: prompts are not texts by their names. Download it again, or correct them.")
    prompts = {name: text for name, text in stored.items() if text}
    default = prompts.get(config.get("default_prompt_name") or "")
    if recipe.preparation.instruction is not None:
        return _tasks(prompts, default, recipe)
    found, used = [], {config.get("default_prompt_name")}
    for role, templates in recipe.preparation.prompts.items():
        name = next((one for one in _ROLES.get(role, ()) if one in prompts), None)
        used.add(name)
        text = default if name is None else prompts[name]
        # A recipe may be made for this very prompt.
        if text and "text" in templates and text + "{text}" not in templates["text"]:
            template = templates["text"].replace("{text}", text + "{text}")
            found.append(Told(f"preparation.prompts.{role}.text", template, _CONFIG))
    return found, [
        f"{_CONFIG}: the prompt {name!r} is of no role, and is not served" for name in prompts if name not in used
    ]


def _tasks(prompts: Mapping[str, str], default: str | None, recipe: Recipe) -> tuple[list[Told], list[str]]:
    """Return prompts with a name as instructions of tasks, which keep what else they change."""
    known = {name: asdict(task) for name, task in recipe.preparation.tasks.items()}
    # A prompt cannot be a task without an adapter where the others have one.
    taken = {name: text for name, text in prompts.items() if name in known or not recipe.preparation.adapters}
    tasks = {**known, **{name: {**known.get(name, {}), "instruction": text} for name, text in taken.items()}}
    found = [Told("preparation.tasks", tasks, _CONFIG)] if taken else []
    if default:
        found.append(Told("preparation.instruction.default", default, _CONFIG))
    return found, [
        f"{_CONFIG}: the prompt {name!r} is of no task, and is not served" for name in prompts if name not in taken
    ]
