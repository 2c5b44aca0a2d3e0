"""Explicit quantization of convolutions: pairs of QuantizeLinear and DequantizeLinear before both operands.

Symmetric, as TensorRT wants it: activations with one scale a tensor from the calibration, weights with one scale an
output channel from their own largest magnitude, all zero points zero. A bias is not quantized. The weights stay fp32
with the pair behind them, which every generation of TensorRT folds into eight-bit weights.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sadtrt_core.graph.calibration import Calibration
from sadtrt_core.graph.edit import GraphBuilder, replace_nodes
from sadtrt_core.precision import QuantizedType

#: The ONNX type of the quantized values, and the largest of them that is used.
_TYPES: dict[QuantizedType, tuple[int, float]] = {
    "int8": (TensorProto.INT8, 127.0),
    "fp8": (TensorProto.FLOAT8E4M3FN, 448.0),
}
#: The first opset, and the file format that came with it, whose QuantizeLinear makes eight-bit floats.
_FP8_OPSET, _FP8_IR = 19, 9
CONVOLUTION = "Conv"


def quantize_convolutions(
    model: onnx.ModelProto, nodes: Collection[str], calibration: Calibration, kind: QuantizedType
) -> frozenset[str]:
    """Quantize the operands of the convolutions of these names in an fp32 graph, in place.

    The graph's constants are initializers. A tensor that several of them read is quantized once. Returns the names of
    the nodes that were added. Raises UserError for a convolution without a range, ValueError for a node that is
    no convolution or whose weights are not a constant. Eight-bit floats raise the graph's opset to 19.
    """
    if kind == "fp8":
        _raise_opset(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantized: dict[str, tuple[str, str, str]] = {}
    made: list[onnx.NodeProto] = []
    added: set[str] = set()
    pending = set(nodes)
    for node in model.graph.node:
        if node.name not in pending:
            made.append(node)
            continue
        pending.discard(node.name)
        if node.op_type != CONVOLUTION or node.input[1] not in weights:
            raise ValueError(f"node {node.name} ({node.op_type}) is no convolution with constant weights")
        builder = GraphBuilder(node.name)
        activation, weight = node.input[:2]
        if activation not in quantized:
            scale = _scales(np.asarray(calibration.require(node.name)), kind)
            quantized[activation] = _quantize(builder, activation, scale, kind, axis=None)
        node.input[0] = builder.op("DequantizeLinear", *quantized[activation])
        values = numpy_helper.to_array(weights[weight])
        scales = _scales(np.abs(values).reshape(values.shape[0], -1).max(axis=1), kind)
        node.input[1] = builder.op("DequantizeLinear", *_quantize(builder, weight, scales, kind, axis=0), axis=0)
        model.graph.initializer.extend(builder.initializers)
        added.update(one.name for one in builder.nodes)
        made.extend((*builder.nodes, node))
    if pending:
        raise ValueError(f"the graph has no node {min(pending)!r} to quantize")
    replace_nodes(model, made)
    return frozenset(added)


def _quantize(
    builder: GraphBuilder, name: str, scale: np.ndarray, kind: QuantizedType, axis: int | None
) -> tuple[str, str, str]:
    """The quantized tensor's name, and those of its scale and zero point."""
    scales = builder.constant(scale, TensorProto.FLOAT)
    zeros = builder.zeros(scale.shape, _TYPES[kind][0])
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    return builder.op("QuantizeLinear", name, scales, zeros, **options), scales, zeros


def _raise_opset(model: onnx.ModelProto) -> None:
    """To the opset of eight-bit floats; the operators of the renderer's graphs mean the same in both."""
    for opset in model.opset_import:
        if opset.domain == "" and opset.version < _FP8_OPSET:
            opset.version = _FP8_OPSET
    model.ir_version = max(model.ir_version, _FP8_IR)


def _scales(largest: np.ndarray, kind: QuantizedType) -> np.ndarray:
    """The float32 scales of values up to these magnitudes; zeros have any, and so has what a GPU flushes to zero."""
    scales = (largest / _TYPES[kind][1]).astype(np.float32)
    return np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1.0))
