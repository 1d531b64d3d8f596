"""Whether OpenVINO multiplies int8 exactly on this processor.

Without VNNI (or AMX), processors of x86 add two products of 8 bits in 16 before they are widened. Two large ones do not
fit, and are cut off without a word: a repository that was exported elsewhere would serve other vectors here. OpenVINO
names no such property of a processor, so it is asked to multiply the largest numbers that there are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

_WIDTH = 64


def quantised(model: Any) -> bool:
    """Return whether an OpenVINO model has int8 products."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


@cache
def exact(openvino: Any, core: Any) -> bool:
    """Return whether products of int8 are exact on the CPU, by the package `openvino` and a core of it.

    They are arguments because preparation, for which this package is made, has no OpenVINO.
    """
    ops = openvino.opset13
    ones = np.ones((_WIDTH, _WIDTH), np.float32)
    x = ops.parameter([1, _WIDTH], np.float32)
    low, high = (ops.constant(np.float32(limit)) for limit in (-128 / 127, 1))
    weights = ops.multiply(
        ops.convert(ops.constant(np.full(ones.shape, 127, np.int8)), np.float32), ops.constant(np.float32(1 / 127))
    )
    product = ops.matmul(ops.fake_quantize(x, low, high, low, high, 256), weights, False, False)
    compiled = core.compile_model(openvino.Model([product], [x]), "CPU")
    found = compiled([ones[:1]])[0]
    return bool(np.allclose(found, _WIDTH, rtol=0.01))
