"""An exported tower in the operators for which onnxruntime's CUDA provider has its fastest kernels.

The graphs of every engine say a rotation in products and sums, and attention over [B, A, S, U] with a mask. This
provider has a kernel for rotations, takes heads where the projections left them, [B, S, A*U], and has flash attention
for key lengths but not for masks. So a mask that hides nothing but padding on the right becomes the number of real
keys. What is computed stays the same.

Legend: B rows, S sequence, A heads, U head width, F rotary frequencies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common
from onnxscript import version_converter
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from periscope_export.errors import ExportError
from periscope_export.graphs.precision import Precision

OPSET = 24  # the first whose Attention takes key lengths
_ONNXRUNTIME = (1, 24)  # the first that has it
_HEADS_FIRST = [0, 2, 1, 3]


def convert(graph: Path) -> Path:
    """Rewrite a graph where it lies and return its path; its weights stay as they are.

    Raises: `ExportError` where this machine's onnxruntime is too old to run it.
    """
    check()
    model = ir.load(graph)
    version_converter.convert_version(model, OPSET)
    for rule in (RewriteRule(_rotation, _rotary_embedding), RewriteRule(_attention, _attention_of_rows)):
        RewriteRuleSet([rule]).apply_to_model(model)
    tidying = common.CommonSubexpressionEliminationPass(), common.RemoveUnusedNodesPass(), common.NameFixPass()
    for tidy in tidying:
        tidy(model)
    ir.save(model, graph)
    return graph


def check(_: Precision | None = None) -> None:
    """Raise `ExportError` where onnxruntime is too old to run what is written here: its fidelity is measured."""
    found = onnxruntime.__version__
    if tuple(map(int, found.split(".")[:2])) < _ONNXRUNTIME:
        wanted = ".".join(map(str, _ONNXRUNTIME))
        raise ExportError(
            f"onnxruntime-cuda: onnxruntime {found} has no attention by key lengths. Install {wanted} or later, which "
            "needs Python 3.11 or later."
        )


def _rotation(op: Any, x_BASU: Any, sizes: Any, cos_B1SF: Any, sin_B1SF: Any) -> Any:
    first, second = op.Split(x_BASU, sizes, axis=3, _outputs=2)
    return op.Concat(
        op.Sub(op.Mul(first, cos_B1SF), op.Mul(second, sin_B1SF)),
        op.Add(op.Mul(second, cos_B1SF), op.Mul(first, sin_B1SF)),
        axis=-1,
    )


def _rotary_embedding(op: Any, x_BASU: Any, cos_B1SF: Any, sin_B1SF: Any, **_: Any) -> Any:
    return op.RotaryEmbedding(x_BASU, *(op.Squeeze(angles, _numbers(op, [1])) for angles in (cos_B1SF, sin_B1SF)))


def _attention(op: Any, q_BASU: Any, k_BASU: Any, v_BASU: Any, shape: Any) -> Any:
    attended = op.Attention(q_BASU, k_BASU, v_BASU, _allow_other_inputs=True, _outputs=["attended_BASU"])
    return op.Reshape(op.Transpose(attended, perm=_HEADS_FIRST), shape)


def _attention_of_rows(
    op: Any, q_BASU: ir.Value, k_BASU: ir.Value, v_BASU: ir.Value, attended_BASU: ir.Value, **_: Any
) -> Any:
    node = attended_BASU.producer()
    assert node is not None
    attended_BSI = _attended(op, node, q_BASU, k_BASU, v_BASU)
    attended_BSI.producer().name = node.name
    return attended_BSI


def _attended(op: Any, node: ir.Node, q_BASU: ir.Value, k_BASU: ir.Value, v_BASU: ir.Value) -> Any:
    rows = [_heads_last(op, value) for value in (q_BASU, k_BASU, v_BASU)]
    attributes: dict[str, Any] = {name: value.value for name, value in node.attributes.items()}
    attributes |= {"q_num_heads": _dims(q_BASU)[1], "kv_num_heads": _dims(k_BASU)[1]}
    if len(node.inputs) == 3:
        return op.Attention(*rows, **attributes)
    mask = node.inputs[3]
    assert mask is not None
    lengths, packed = _lengths(op, mask)
    if lengths is None:
        return op.Attention(*rows, mask, **attributes)
    by_lengths = [*rows, None, None, None, lengths]
    if packed is None:
        return op.Attention(*by_lengths, **attributes)
    # Several images in a row, or windows with padding in them, are blocks of the mask, which no length describes.
    return op.If(
        packed,
        then_branch=_branch("masked", [*rows, mask], attributes),
        else_branch=_branch("by_lengths", by_lengths, attributes),
    )


def _heads_last(op: Any, value_BASU: ir.Value) -> Any:
    """Return [B, A, S, U] as [B, S, A*U], without the transposition from there to here where that can be left out."""
    node = value_BASU.producer()
    assert node is not None
    source = node.inputs[0]
    assert source is not None
    if node.op_type == "Cast":
        return op.Cast(_heads_last(op, source), to=node.attributes["to"].value)
    if node.op_type == "RotaryEmbedding":
        return op.RotaryEmbedding(_heads_last(op, source), *node.inputs[1:], num_heads=_dims(value_BASU)[1])
    if node.op_type == "Transpose" and list(node.attributes["perm"].value) == _HEADS_FIRST:
        return op.Reshape(source, _numbers(op, [0, 0, -1]))
    return op.Reshape(op.Transpose(value_BASU, perm=_HEADS_FIRST), _numbers(op, [0, 0, -1]))


def _lengths(op: Any, mask: ir.Value) -> tuple[Any, Any]:
    """Return what a mask says of its rows: how many keys are real, int64 [B], and whether any has several images, or
    padding between its patches.

    The first is None for a mask of a form that towers do not make, the second where rows have no images.
    """
    node, kinds = mask.producer(), []
    while node is not None and node.op_type in ("Unsqueeze", "Expand", "Equal", "Greater"):
        kinds.append(node.op_type)
        source = node.inputs[0]
        assert source is not None
        node = source.producer()
    made_of = [kind for kind in kinds if kind in ("Equal", "Greater")]
    if made_of == ["Greater"]:  # 1 for a token, 0 for padding
        return _counted(op, op.Greater(source, op.CastLike(_numbers(op, [0]), source))), None
    if made_of == ["Equal"]:  # which image of its row, -1 for padding
        first = op.CastLike(_numbers(op, [0]), source)
        # One image and then padding: no place is real and of another image than the place before it, or after padding.
        before = op.Slice(source, _numbers(op, [0]), _numbers(op, [-1]), _numbers(op, [1]))
        after = op.Slice(source, _numbers(op, [1]), _numbers(op, [2**31]), _numbers(op, [1]))
        begins = op.And(op.Not(op.Equal(after, before)), op.GreaterOrEqual(after, first))
        packed = op.ReduceMax(op.Cast(begins, to=ir.DataType.INT32), keepdims=0)
        return _counted(op, op.GreaterOrEqual(source, first)), op.Cast(packed, to=ir.DataType.BOOL)
    return None, None


def _counted(op: Any, real_BS: Any) -> Any:
    count_B = op.ReduceSum(op.Cast(real_BS, to=ir.DataType.INT64), _numbers(op, [1]), keepdims=0)
    return op.Max(count_B, _numbers(op, [1]))  # a row of nothing but padding has something to look at as well


def _branch(name: str, inputs: list[Any], attributes: dict[str, Any]) -> ir.Graph:
    node = ir.node("Attention", inputs, attributes)
    return ir.Graph([], node.outputs, nodes=[node], name=name)


def _numbers(op: Any, numbers: list[int]) -> Any:
    return op.Constant(value=ir.tensor(numbers, dtype=ir.DataType.INT64))


def _dims(value: ir.Value) -> Any:
    assert value.shape is not None
    return value.shape
