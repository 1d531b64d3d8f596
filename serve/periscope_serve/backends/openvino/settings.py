"""The OpenVINO settings of a Triton model config, read as the C++ backend reads them.

Source: https://github.com/triton-inference-server/openvino_backend, "Parameters".
"""

from __future__ import annotations

from typing import Any

from periscope_runtime.cpus import limit
from periscope_serve.backends.settings import SettingsError, integer, parameters, refuse_unsupported

# Needed in C++ for batches of less than max_batch_size; no change here, where the batch is a free dimension.
_NEEDLESS = ("SKIP_OV_DYNAMIC_BATCHSIZE", "ENABLE_BATCH_PADDING")
_WORDS = {
    "HINT_BF16": ("YES",),
    "PERFORMANCE_HINT": ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"),
    "TARGET_DEVICE": ("CPU",),
    **dict.fromkeys(_NEEDLESS, ("YES", "NO")),
}
_COUNTS = ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS", "NUM_STREAMS")
_CPP_ONLY = ("CPU_EXTENSION_PATH", "RESHAPE_IO_LAYERS")


def properties(config: dict[str, Any], kind: str = "CPU") -> dict[str, str]:
    """Return what to compile a graph with, as OpenVINO's own properties.

    Where this process may use fewer CPUs than the machine has, their number is `INFERENCE_NUM_THREADS`.
    Without `HINT_BF16` OpenVINO computes float32 graphs in what it takes for the fastest precision of the processor.
    Raises: `SettingsError` for values that make no sense, and for what only the C++ backend has.
    """
    refuse_unsupported(config, "openvino")
    if kind != "CPU":
        raise SettingsError(f"the instance group asks for KIND_{kind}. OpenVINO serves CPUs here: use KIND_CPU")
    given = parameters(config)
    used = [name for name in _CPP_ONLY if name in given]
    if used:
        raise SettingsError(
            f"the config uses {', '.join(used)}, which only Triton's C++ openvino backend offers. Remove it, or serve "
            "this repository with NVIDIA's container"
        )
    for name, words in _WORDS.items():
        if name in given and given[name].upper() not in words:
            raise SettingsError(f"expected the parameter '{name}' to be {'/'.join(words)}, got {given[name]}")
    cpus = limit()
    chosen = {} if cpus is None else {"INFERENCE_NUM_THREADS": str(cpus)}
    chosen |= {name: str(_count(given, name)) for name in _COUNTS if name in given}
    if "HINT_BF16" in given:
        chosen["INFERENCE_PRECISION_HINT"] = "bf16"
    if "PERFORMANCE_HINT" in given:
        chosen["PERFORMANCE_HINT"] = given["PERFORMANCE_HINT"].upper()
    return chosen


def _count(given: dict[str, str], name: str) -> int | str:
    if name == "NUM_STREAMS" and given[name].upper() in ("AUTO", "NUMA"):
        return given[name].upper()
    count = integer(given, name)
    if count < 0:
        raise SettingsError(f"expected the parameter '{name}' to be a non-negative number, got {given[name]}")
    return count
