"""The largest values of a graph's tensors on samples, in the memory of the samples' activations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from periscope_export.graphs.session import frugal_session

Sample = Mapping[str, npt.NDArray[Any]]


def largest_magnitudes(
    model: onnx.ModelProto, folder: Path, tensors: Collection[str], samples: Sequence[Sample]
) -> dict[str, float]:
    """Return the largest magnitude of each of the graph's `tensors` in any run of it.

    `samples` holds one mapping of all inputs for each run, in any dtype; their shapes may differ. The external data of
    `model`, which is not changed, lies in `folder`, where a file of ours is for as long as this takes.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    outputs = {f"{tensor}/largest_magnitude": tensor for tensor in tensors}
    for output, tensor in outputs.items():
        graph.node.append(helper.make_node("Abs", [tensor], [f"{output}/of"]))
        # Without axes all are reduced.
        graph.node.append(helper.make_node("ReduceMax", [f"{output}/of"], [f"{output}/is"], keepdims=0))
        graph.node.append(helper.make_node("Cast", [f"{output}/is"], [output], to=onnx.TensorProto.FLOAT))
        graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, []))
    dtypes = {value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.input}
    with NamedTemporaryFile(dir=folder, suffix=".onnx") as file:
        file.write(watched.SerializeToString())
        file.flush()
        session = frugal_session(Path(file.name))
        runs = [
            session.run(list(outputs), {name: np.asarray(sample[name], dtype) for name, dtype in dtypes.items()})
            for sample in samples
        ]
    # numpy's, which let no nan get lost.
    return {tensor: float(np.max([run[place] for run in runs])) for place, tensor in enumerate(outputs.values())}
