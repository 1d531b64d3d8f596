"""An exported graph in OpenVINO's own form, in which it can be told what must not be computed in bfloat16.

bfloat16 holds no whole number above 256 exactly. A graph that is computed in it would round positions before it turns
them into angles, and shares of neighbours before it mixes them: a page's lower half would lie where it does not. So
everything up to the first matrix product stays float32.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from periscope_export.errors import ExportError
from periscope_runtime import int8_products

# `periscope verify` needs this file, and no torch.
if TYPE_CHECKING:
    from periscope_export.graphs.precision import Precision

GRAPH_FILE = "model.xml"

# From where on bfloat16 or int8 may begin.
_REDUCED = ("MatMul", "FakeQuantize")
# OpenVINO's word for an operation that stays in the precision in which it is written.
_PRECISE = "precise"


def load_openvino() -> Any:
    """Return OpenVINO's Python package. Raises `ExportError` where it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise ExportError(
            f"openvino: {error}. Install the extra that brings it, in a checkout of Periscope: "
            "pip install '.[openvino]'."
        ) from error
    return openvino


def check(precision: Precision | None) -> None:
    """Raise `ExportError` where OpenVINO is not installed, or computes wrongly in a precision, on this processor."""
    if precision == "int8" and not exact_int8():
        raise ExportError(
            "openvino: this processor adds up products of int8 wrongly, it has no VNNI, so fidelity cannot be "
            "measured. Export on one that has, or in bf16."
        )
    load_openvino()


def exact_int8() -> bool:
    """Return whether OpenVINO multiplies int8 exactly here. Raises `ExportError` where it is not installed."""
    return int8_products.exact(load_openvino(), core())


@cache
def core() -> Any:
    """Return OpenVINO's core, the same at every call. Raises `ExportError` where it is not installed.

    A core that ends unloads libraries, of which models, and threads that wait for work, may still be in need.
    """
    return load_openvino().Core()


def convert(graph: Path) -> Path:
    """Write `model.xml` and `model.bin` beside an ONNX graph, remove it and its data, and return the new graph's path.

    Raises: `ExportError` where OpenVINO is not installed.
    """
    openvino = load_openvino()
    output = graph.with_name(GRAPH_FILE)
    model = core().read_model(graph)
    names = [port.get_any_name() for port in (*model.inputs, *model.outputs)]
    openvino.save_model(model, output, compress_to_fp16=False)
    _mark(output, _before_products(model))
    del model
    for file in graph.parent.glob(f"{graph.name}*"):
        file.unlink()
    written = core().read_model(output)
    assert [port.get_any_name() for port in (*written.inputs, *written.outputs)] == names
    return output


def _before_products(model: Any) -> set[str]:
    """Return the names of the operations that work on inputs, and on nothing that a matrix product gave."""
    from_inputs, reduced = set[str](), set[str]()
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        sources = {node.input_value(place).get_node().get_friendly_name() for place in range(node.get_input_size())}
        if kind in _REDUCED or sources & reduced:
            reduced.add(name)
        elif kind == "Parameter" or sources & from_inputs:
            from_inputs.add(name)
    return from_inputs


def _mark(file: Path, names: set[str]) -> None:
    tree = ElementTree.parse(file)
    for layer in tree.getroot().iterfind("layers/layer"):
        if layer.get("name") in names and layer.get("type") not in ("Parameter", "Result"):
            told = layer.find("rt_info")
            if told is None:
                told = ElementTree.Element("rt_info")
                tags = [child.tag for child in layer]
                layer.insert(tags.index("input"), told)
            ElementTree.SubElement(told, "attribute", name=_PRECISE, version="0")
    tree.write(file, encoding="utf-8", xml_declaration=True)
