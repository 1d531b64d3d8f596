"""Matrix products whose input is scaled token by token, so that one scale for all tokens loses little.

Where inputs differ widely between tokens, as those of a gated MLP's second product do, one scale leaves most tokens a
few steps. Divided by its own largest magnitude each token fills the range of -1 to 1, and its row of the
product is multiplied by it again: x W = s (x / s) W. The engine is given the range of -1 to 1, a constant, so its
kernels for constant scales do what else needs scales found at run time ("dynamic, per token" in the literature).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Tokens that hold nothing larger are not divided by their own magnitude: padding may be all zeros. float16 holds it.
_SMALLEST = 1e-4


def scale_tokens(graph: onnx.GraphProto, weights: Collection[str]) -> None:
    """Rewrite, in place, the products with these weights. What they give stays the same up to rounding."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        x, weight = node.input
        y, name = node.output[0], f"{weight}.tokens"
        smallest = np.asarray(_SMALLEST, helper.tensor_dtype_to_np_dtype(types[weight]))
        graph.initializer.append(numpy_helper.from_array(smallest, f"{name}/smallest"))
        graph.initializer.append(numpy_helper.from_array(np.asarray([-1], np.int64), f"{name}/axis"))
        scaled = onnx.NodeProto()
        scaled.CopyFrom(node)
        scaled.input[0], scaled.output[0] = f"{name}/x", f"{name}/y"
        nodes += [
            _node("Abs", [x], f"{name}/magnitudes"),
            _node("ReduceMax", [f"{name}/magnitudes", f"{name}/axis"], f"{name}/largest"),
            _node("Max", [f"{name}/largest", f"{name}/smallest"], f"{name}/scale"),
            _node("Div", [x, f"{name}/scale"], f"{name}/x"),
            scaled,
            _node("Mul", [f"{name}/y", f"{name}/scale"], y),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _node(operator: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"{output}/{operator}")
