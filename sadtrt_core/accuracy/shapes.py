"""Shapes and arithmetic of a graph's nodes at batch 1."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from sadtrt_core.engine.fixed_shapes import fix_shapes
from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.rounding import EXACT

#: Operators that compute no value: they move, choose, compare or count.
NO_ARITHMETIC = EXACT | {"Shape", "Size", "Cast", "Constant", "ConstantOfShape", "Range", "Less"}


def tensor_shapes(graph: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of an fp32 graph for inputs of these shapes, the insides of its samplers included."""
    return _shapes(_plain(graph, inputs))


def node_flops(graph: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Floating-point operations of every node of an fp32 graph that computes, for inputs of these shapes.

    A convolution has two for each weight and output place; any other operator one for each element it makes, a volume
    sampler the sum of the ordinary operators it stands for.
    """
    plain = _plain(graph, inputs)
    shapes = _shapes(plain)
    weights = {tensor.name: tuple(tensor.dims) for tensor in plain.graph.initializer} | shapes
    own = {node.name for node in graph.graph.node if node.op_type != "Constant"}
    found = dict.fromkeys(own, 0.0)
    for node in plain.graph.node:
        if node.op_type in NO_ARITHMETIC or node.output[0] not in shapes:
            continue
        made = shapes[node.output[0]]
        if node.op_type == "Conv":
            count = 2.0 * made[0] * math.prod(made[2:]) * math.prod(weights[node.input[1]])
        else:
            count = float(math.prod(made))
        # A resolved sampler's operators carry its name in front of their own.
        owner = node.name if node.name in own else node.name.rpartition("/")[0]
        if owner in found:
            found[owner] += count
    return found


def _plain(graph: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    constants_to_initializers(copy)
    plain = resolve_grid_sample(copy, "native")
    fix_shapes(plain, inputs)
    return plain


def _shapes(plain: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    found = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found
