"""The tensors of an ONNX graph against those of a Triton model config: completing the config, refusing a wrong one.

A config that loads here must load under the C++ backend as well, so the rules and the wording are its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Config = dict[str, Any]

DEFAULT_MAX_BATCH_SIZE = 4
"""The batch size that Triton tells its backends to fill in (`--backend-config=default-max-batch-size`)."""

TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float": "TYPE_FP32",
    "double": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "string": "TYPE_STRING",
}


class SignatureError(Exception):
    """The model config and the ONNX graph do not describe the same tensors."""


class NodeArg(Protocol):
    """One input or output, as onnxruntime describes it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class TensorInfo(NamedTuple):
    """One tensor of the graph in Triton's terms; a dimension the graph leaves open is -1, a scalar has no dims."""

    data_type: str
    dims: tuple[int, ...]


class Signature(NamedTuple):
    """Every tensor that goes into or comes out of a graph."""

    inputs: dict[str, TensorInfo]
    initializers: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]

    @classmethod
    def of(cls, session: Any) -> Signature:
        """Read the signature of an `onnxruntime.InferenceSession`."""
        return cls(
            _infos(session.get_inputs()), _infos(session.get_overridable_initializers()), _infos(session.get_outputs())
        )


def _infos(args: Iterable[NodeArg]) -> dict[str, TensorInfo]:
    infos = {}
    for arg in args:
        kind, _, element = arg.type.partition("(")
        if kind != "tensor":
            raise SignatureError(f"Unsupported ONNX Type '{arg.type}' for I/O '{arg.name}', expected 'tensor'")
        dims = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in arg.shape)
        infos[arg.name] = TensorInfo(TRITON_TYPES.get(element.rstrip(")"), "TYPE_INVALID"), dims)
    return infos


def is_complete(config: Config) -> bool:
    """Whether the config names inputs and outputs; the C++ backend then fills in nothing, not even batching."""
    return bool(config.get("input") or config.get("batch_input")) and bool(config.get("output"))


def complete(config: Config, signature: Signature) -> None:
    """Fill in, in place, what the config leaves out: batching, then inputs and outputs."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    if all(info.dims[:1] == (-1,) for info in tensors):
        config["max_batch_size"] = config.get("max_batch_size") or DEFAULT_MAX_BATCH_SIZE
        if config["max_batch_size"] > 1 and not config.get("sequence_batching"):
            config.setdefault("dynamic_batching", {})
    elif config.get("max_batch_size"):
        raise SignatureError(
            f"autofill failed for model '{config['name']}': model does not support batching while non-zero "
            "max_batch_size is specified"
        )
    batched = bool(config.get("max_batch_size"))
    for key, infos in (("input", signature.inputs), ("output", signature.outputs)):
        if not config.get(key):
            config[key] = [_entry(name, info, batched) for name, info in infos.items()]


def _entry(name: str, info: TensorInfo, batched: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "data_type": info.data_type, "dims": list(info.dims[batched:])}
    if not entry["dims"]:
        # A config cannot say "no dimensions": it says one of size 1 and, where there is a batch, reshapes it away.
        entry["dims"] = [1]
        if batched:
            entry["reshape"] = {"shape": []}
    return entry


def check(config: Config, signature: Signature) -> None:
    """Refuse a config whose tensors are not the graph's."""
    inputs = config.get("input", [])
    required = [entry for entry in inputs if not (entry.get("optional") and entry["name"] in signature.initializers)]
    if len(required) != len(signature.inputs):
        # The count is what the C++ backend reports, the name is what one needs to mend it: say both.
        unknown = sorted({entry["name"] for entry in required} - set(signature.inputs))
        missing = sorted(set(signature.inputs) - {entry["name"] for entry in required})
        details = "".join(
            f"; {what}: {', '.join(names)}"
            for what, names in (("unexpected in the configuration", unknown), ("missing from it", missing))
            if names
        )
        raise SignatureError(
            f"unable to load model '{config['name']}', configuration expects {len(required)} inputs, "
            f"model provides {len(signature.inputs)}{details}"
        )
    for entry in inputs:
        if entry.get("optional") and config.get("max_batch_size"):
            raise SignatureError(
                f"unable to load model '{config['name']}', optional input '{entry['name']}' is not supported for "
                "models that support batching"
            )
        _check_entry(config, "input", entry, {**signature.inputs, **signature.initializers})
    for entry in config.get("output", []):
        _check_entry(config, "output", entry, signature.outputs)


def _check_entry(config: Config, role: str, entry: dict[str, Any], allowed: Mapping[str, TensorInfo]) -> None:
    model, name, data_type = config["name"], entry["name"], entry["data_type"]
    if name not in allowed:
        raise SignatureError(f"unexpected inference {role} '{name}', allowed {role}s are: {', '.join(sorted(allowed))}")
    info = allowed[name]
    if data_type != info.data_type:
        raise SignatureError(
            f"unable to load model '{model}', configuration expects datatype {data_type} for {role} '{name}', "
            f"model provides {info.data_type}"
        )
    if data_type == "TYPE_BF16":
        raise SignatureError(
            f"unable to load model '{model}': {role} '{name}' is TYPE_BF16, which numpy cannot hold and so this "
            "Python backend cannot carry. Export the graph with FP32 or FP16 inputs and outputs, or serve it with "
            "Triton's C++ onnxruntime backend, 26.03 or newer"
        )
    dims = config_dims(entry)
    if not info.dims:
        if any(dim != 1 for dim in dims):
            raise SignatureError(
                f"unable to load model '{model}', scalar tensor '{name}', should only provide 1 in the model "
                "configuration when the model doesn't support batching. Model configuration provided: "
                f"{_shape(dims)}."
            )
        return
    _check_dims(config, name, info.dims, dims, exact=role == "output")


def config_dims(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape the backend sees for a config entry: the reshape where there is one, the dims otherwise."""
    reshape = entry.get("reshape")
    return tuple(int(dim) for dim in (entry["dims"] if reshape is None else reshape.get("shape", [])))


def _check_dims(config: Config, name: str, graph: tuple[int, ...], dims: tuple[int, ...], exact: bool) -> None:
    prefix = f"model '{config['name']}', tensor '{name}': "
    batched = bool(config.get("max_batch_size"))
    if batched and graph[0] != -1:
        raise SignatureError(
            f"{prefix}for the model to support batching the shape should have at least 1 dimension and the first "
            f"dimension must be -1; but shape expected by the model is {_shape(graph)}"
        )
    full = (-1, *dims) if batched else dims
    # An input may be narrower in the config than in the graph; an output must promise exactly what the graph gives.
    fits = len(graph) == len(full) and all(a == b or (a == -1 and not exact) for a, b in zip(graph, full, strict=True))
    if not fits:
        why = (
            "an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making "
            f"complete shape {_shape(full)}"
            if batched
            else f"shape {_shape(full)}"
        )
        raise SignatureError(
            f"{prefix}the model expects {len(graph)} dimensions (shape {_shape(graph)}) but the model configuration "
            f"specifies {len(full)} dimensions ({why})"
        )


def _shape(dims: Sequence[int]) -> str:
    return f"[{','.join(map(str, dims))}]"
