"""Small tools for editing ONNX graphs: a node builder with unique names, who makes and reads a tensor, its type."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.plugin_nodes import FLOAT32_OUTPUTS, INT8_NORMS

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})

#: Operators whose output type is not that of their first input.
_BOOL_OUTPUT = frozenset({"Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal", "And", "Or", "Not"})
_TYPE_OF_SECOND = frozenset({"Where", "DequantizeLinear"})


class GraphBuilder:
    """Appends nodes and constants under one name prefix; every name it makes is unique within the prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._count = 0

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}/{kind}_{self._count}"

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        name = self._name(op_type)
        result = output or f"{name}_output_0"
        self.nodes.append(helper.make_node(op_type, list(inputs), [result], name=name, **attributes))
        return result

    def constant(self, values: object, dtype: int) -> str:
        """Append an initializer of an ONNX element type and return its name."""
        name = self._name("constant")
        numpy_type = helper.tensor_dtype_to_np_dtype(dtype)
        self.initializers.append(numpy_helper.from_array(np.asarray(values).astype(numpy_type), name))
        return name

    def zeros(self, shape: tuple[int, ...], dtype: int) -> str:
        """Append an initializer of zeros, of an ONNX element type of one byte that numpy need not know."""
        name = self._name("zeros")
        tensor = TensorProto(name=name, data_type=dtype, dims=shape, raw_data=bytes(math.prod(shape)))
        self.initializers.append(tensor)
        return name


class GraphIndex:
    """A graph's constants, and who makes and who reads each of its tensors, as it was when this was made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.outputs = {value.name for value in model.graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The node that reads a tensor, where it is the only one and the tensor does not leave the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def value(self, name: str) -> np.ndarray | None:
        """A constant, or None for a tensor that is none."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX element type of every tensor in a topologically sorted graph, custom nodes included.

    ONNX's own shape inference stops at a custom node, so the types are followed operator by operator: a node's outputs
    have the type of its first input unless the operator says otherwise.
    """
    types: dict[str, int] = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    for node in model.graph.node:
        kind = _output_type(node, types)
        types.update(dict.fromkeys(node.output, kind))
        if node.op_type in INT8_NORMS.values():
            types[node.output[-1]] = TensorProto.INT8
    return types


def _output_type(node: onnx.NodeProto, types: dict[str, int]) -> int:
    if node.op_type == "Cast":
        return int(attribute(node, "to"))
    if node.op_type in ("Constant", "ConstantOfShape"):
        return node.attribute[0].t.data_type if node.attribute else TensorProto.FLOAT
    if node.op_type in ("Shape", "Size"):
        return TensorProto.INT64
    if node.op_type in _BOOL_OUTPUT:
        return TensorProto.BOOL
    if node.op_type in FLOAT32_OUTPUTS:
        return TensorProto.FLOAT
    if node.op_type == "QuantizeLinear":
        return types[node.input[2]] if len(node.input) > 2 else TensorProto.UINT8
    return types[node.input[1 if node.op_type in _TYPE_OF_SECOND else 0]]


def attribute(node: onnx.NodeProto, name: str) -> int:
    """An integer attribute of a node; ValueError when the node lacks it."""
    return int(helper.get_node_attr_value(node, name))


def integers(node: onnx.NodeProto, name: str) -> tuple[int, ...]:
    """An attribute of several integers; ValueError when the node lacks it."""
    return tuple(helper.get_node_attr_value(node, name))


def constants_to_initializers(model: onnx.ModelProto) -> None:
    """Replace every Constant node by an initializer of the same name, in place, so that constants are one kind."""
    for node in model.graph.node:
        if node.op_type == "Constant":
            model.graph.initializer.append(node.attribute[0].t)
            model.graph.initializer[-1].name = node.output[0]
    replace_nodes(model, (node for node in model.graph.node if node.op_type != "Constant"))


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Set the graph's node list, in place."""
    copied = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(copied)


def rewrite_nodes(
    model: onnx.ModelProto, op_type: str, rewrite: Callable[[GraphBuilder, onnx.NodeProto, dict[str, int]], None]
) -> None:
    """Replace every node of a type by what `rewrite(builder, node, element types)` gives the builder, in place."""
    types = element_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != op_type:
            nodes.append(node)
            continue
        builder = GraphBuilder(node.name or f"/{node.output[0]}/{op_type}")
        rewrite(builder, node, types)
        nodes.extend(builder.nodes)
        model.graph.initializer.extend(builder.initializers)
    replace_nodes(model, nodes)
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that no output depends on, and every stale shape annotation, in place."""
    needed = {value.name for value in model.graph.output}
    replace_nodes(model, needed_nodes(model.graph.node, needed))
    # One by one: a list of those that are left would be a copy of every weight.
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in needed:
            del model.graph.initializer[index]
    del model.graph.value_info[:]


def needed_nodes(nodes: Iterable[onnx.NodeProto], needed: set[str]) -> list[onnx.NodeProto]:
    """Those of sorted nodes that the tensors `needed` depend on; the names of all these depend on are added to it."""
    kept = []
    for node in reversed(list(nodes)):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]
