"""A graph for one batch size: input shapes fixed, and the integer arithmetic that only computes shapes folded away.

An engine has one shape, so nothing of a shape is left to find out when it runs. Parsers and builders of every
generation take constants where they stumble over chains of Shape, Gather and Concat. Float values are never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sadtrt_core.graph.edit import drop_unused, element_types, replace_nodes

_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
#: Larger results stay to be computed on the device: indices and masks, not shapes.
_LARGEST = 4096


def fix_shapes(model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give every input of `model` the shape of that name and fold the integer arithmetic that follows, in place."""
    for value in model.graph.input:
        del value.type.tensor_type.shape.dim[:]
        for size in input_shapes[value.name]:
            value.type.tensor_type.shape.dim.add().dim_value = size
    _fold_integers(model, {})
    # Again as long as it helps: a shape is found only once what reshapes the tensor is a constant.
    left, before = _count_shape_nodes(model), -1
    while left and left != before:
        _fold_integers(model, _fixed_shapes(model))
        left, before = _count_shape_nodes(model), left


def _count_shape_nodes(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Shape" for node in model.graph.node)


def _fold_integers(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    types = element_types(model)
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type in _INTEGERS
    }
    remaining = []
    for node in model.graph.node:
        value = _folded(node, known, shapes, types, model)
        if value is None:
            remaining.append(node)
        else:
            known[node.output[0]] = value
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    replace_nodes(model, remaining)
    drop_unused(model)


def _folded(
    node: onnx.NodeProto,
    known: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, int],
    model: onnx.ModelProto,
) -> np.ndarray | None:
    """The node's only output where it is a small integer tensor of constants, else None."""
    if len(node.output) != 1 or types[node.output[0]] not in _INTEGERS:
        return None
    if node.op_type == "Shape":
        if node.input[0] not in shapes or node.attribute:
            return None
        return np.asarray(shapes[node.input[0]], dtype=np.int64)
    if any(name and name not in known for name in node.input):
        return None
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_tensor_value_info(name, types[name], None) for name in node.input if name],
        [helper.make_tensor_value_info(node.output[0], types[node.output[0]], None)],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    results: Any = ReferenceEvaluator(single).run(None, {name: known[name] for name in node.input if name})
    value = np.asarray(results[0])
    return value if value.size <= _LARGEST else None


def _fixed_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor for which shape inference finds one without unknowns."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found
