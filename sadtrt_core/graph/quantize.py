"""Explicit quantization of convolutions: pairs of QuantizeLinear and DequantizeLinear before both operands.

Symmetric, as TensorRT wants it: activations with one scale a tensor from the calibration, weights with one scale an
output channel from their own largest magnitude, all zero points zero. A bias is not quantized. The weights stay fp32
with the pair behind them, which every generation of TensorRT folds into eight-bit weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.codec import JsonValue, json_digest
from sadtrt_core.errors import UserError
from sadtrt_core.graph.edit import GraphBuilder, GraphIndex, element_types, replace_nodes
from sadtrt_core.graph.plugin_nodes import INT8_NORMS
from sadtrt_core.precision import QuantizedType

#: The ONNX type of the quantized values, and the largest of them that is used.
_TYPES: dict[QuantizedType, tuple[int, float]] = {
    "int8": (TensorProto.INT8, 127.0),
    "fp8": (TensorProto.FLOAT8E4M3FN, 448.0),
}
#: The first opset, and the file format that came with it, whose QuantizeLinear makes eight-bit floats.
_FP8_OPSET, _FP8_IR = 19, 9
CONVOLUTION = "Conv"
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Calibration(JsonValue):
    """The largest magnitude that each convolution's input has, by the name of the convolution's node.

    Measured in fp32 over these frames of one workload or several by one method of the calibrator; `weights` and
    `workload` are digests, the latter joined by plus signs, `exporter` says what wrote the graph and computed it. The
    names of convolutions are the same in the whole generator and in its parts, so one calibration serves all of them.
    Raises ValueError where there is no range, and for one that is not positive or that float32 does not hold.
    """

    method: str
    frames: tuple[int, ...]
    weights: str
    workload: str
    exporter: str
    ranges: dict[str, float]

    def __post_init__(self) -> None:
        if not self.ranges:
            raise ValueError("there is no range: expected one for each convolution")
        for name, value in self.ranges.items():
            if not 0 < value <= _LARGEST:
                raise ValueError(f"the range of {name} is {value}: expected a positive number")

    def require_weights(self, digest: str) -> None:
        """UserError unless the ranges were measured with the weights of this digest."""
        if self.weights != digest:
            raise UserError(
                f"the calibration was made with the weights {self.weights[:12]}, not with {digest[:12]}: ranges of "
                "other weights clip or waste levels, so calibrate again"
            )

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of all that it says."""
        return json_digest(self.to_json())

    def sentence(self) -> str:
        """For the reader of a record."""
        return f"ranges by {self.method} over {len(self.frames)} frames of a motion that is not rendered"


def quantize_convolutions(
    model: onnx.ModelProto, nodes: Collection[str], calibration: Calibration, kind: QuantizedType
) -> frozenset[str]:
    """Quantize the operands of the convolutions of these names in an fp32 graph, in place.

    The graph's constants are initializers. A tensor that several of them read is quantized once. Returns the names of
    the nodes that were added. Raises UserError for a convolution without a range, ValueError for a node that is
    no convolution or whose weights are not a constant. Eight-bit floats raise the graph's opset to 19.
    """
    if kind == "fp8":
        # The operators of the renderer's graphs mean the same in both opsets.
        for opset in model.opset_import:
            if opset.domain == "" and opset.version < _FP8_OPSET:
                opset.version = _FP8_OPSET
        model.ir_version = max(model.ir_version, _FP8_IR)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    quantized: dict[str, tuple[str, str, str]] = {}
    made: list[onnx.NodeProto] = []
    added: set[str] = set()
    missing = set(nodes) - {node.name for node in model.graph.node}
    if missing:
        raise ValueError(f"the graph has no node {min(missing)!r} to quantize")
    for node in model.graph.node:
        if node.name not in nodes:
            made.append(node)
            continue
        if node.op_type != CONVOLUTION or node.input[1] not in weights:
            raise ValueError(f"node {node.name} ({node.op_type}) is no convolution with constant weights")
        builder = GraphBuilder(node.name)
        activation, weight = node.input[:2]
        if activation not in quantized:
            if node.name not in calibration.ranges:
                raise UserError(
                    f"the calibration has no range for {node.name}: it was made for another network, so calibrate again"
                )
            scale = _scales(np.asarray(calibration.ranges[node.name]), kind)
            quantized[activation] = _quantize(builder, activation, scale, kind)
        node.input[0] = builder.op("DequantizeLinear", *quantized[activation])
        values = numpy_helper.to_array(weights[weight])
        scales = _scales(np.abs(values).reshape(values.shape[0], -1).max(axis=1), kind)
        node.input[1] = builder.op("DequantizeLinear", *_quantize(builder, weight, scales, kind, axis=0), axis=0)
        model.graph.initializer.extend(builder.initializers)
        added.update(one.name for one in builder.nodes)
        made.extend((*builder.nodes, node))
    replace_nodes(model, made)
    return frozenset(added)


def quantize_in_norms(model: onnx.ModelProto) -> None:
    """Let SPADE norm operators write int8 themselves where only a QuantizeLinear reads their result, in place.

    SpadeNorm, a Cast where there is one and QuantizeLinear become SpadeNormInt8, which computes the same bits: it
    rounds to its tensors' type before it quantizes. What dequantizes stays. Eight-bit floats are left as they are.
    """
    types, graph = element_types(model), GraphIndex(model)
    gone: set[str] = set()
    for norm in [node for node in model.graph.node if node.op_type in INT8_NORMS]:
        first = graph.only_reader(norm.output[-1])
        last = graph.only_reader(first.output[0]) if first is not None and first.op_type == "Cast" else first
        if first is None or last is None or last.op_type != "QuantizeLinear":
            continue
        if types[last.output[0]] == TensorProto.INT8:
            scale = numpy_helper.to_array(graph.constants[last.input[1]]).item()
            norm.attribute.append(helper.make_attribute("scale", scale))
            norm.op_type, norm.output[-1] = INT8_NORMS[norm.op_type], last.output[0]
            gone.update((first.name, last.name))
    replace_nodes(model, [node for node in model.graph.node if node.name not in gone])


def _quantize(
    builder: GraphBuilder, name: str, scale: np.ndarray, kind: QuantizedType, **axis: Any
) -> tuple[str, str, str]:
    """The quantized tensor's name, and those of its scale and zero point."""
    scales = builder.constant(scale, TensorProto.FLOAT)
    zeros = builder.zeros(scale.shape, _TYPES[kind][0])
    return builder.op("QuantizeLinear", name, scales, zeros, **axis), scales, zeros


def _scales(largest: np.ndarray, kind: QuantizedType) -> np.ndarray:
    """The float32 scales of values up to these magnitudes; zeros have any, and so has what a GPU flushes to zero."""
    scales = (largest / _TYPES[kind][1]).astype(np.float32)
    return np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1.0))
