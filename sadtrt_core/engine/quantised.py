"""The form in which TensorRT 8.6 is given a quantised graph: eight-bit convolutions that the builder is free to fuse.

A cast between a DequantizeLinear and its convolution, or between a convolution and the next QuantizeLinear, would keep
the builder from fusing them into one eight-bit kernel. So the network is parsed in float32 without casts between float
types, and the types that the graph declares become layer precisions all the same (engine/constraints.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, numpy_helper

from sadtrt_core.graph.edit import FLOAT_TYPES, element_types, replace_nodes

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: What the builder fuses into a convolution before it quantises the result.
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu"})


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the graph is quantised."""
    return any(node.op_type in _PAIR for node in model.graph.node)


def free_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the tensors whose type belongs to the builder: what quantised convolutions and their fusions make.

    Those are quantised and dequantised values, the convolutions' results, and an activation between a convolution and
    the next quantisation. Casts in between count as one with what they read.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def behind_casts(name: str) -> list[tuple[str, onnx.NodeProto]]:
        found: list[tuple[str, onnx.NodeProto]] = []
        for reader in readers.get(name, ()):
            found += behind_casts(reader.output[0]) if reader.op_type == "Cast" else [(reader.op_type, reader)]
        return found

    free = {name for node in model.graph.node if node.op_type in _PAIR for name in node.output}
    for made in [node.output[0] for node in model.graph.node if node.op_type == "Conv" and node.input[0] in free]:
        free.add(made)
        for kind, reader in behind_casts(made):
            if kind in _ACTIVATIONS and any(after == "QuantizeLinear" for after, _ in behind_casts(reader.output[0])):
                free.add(reader.output[0])
    return frozenset(free)


def without_casts(
    model: onnx.ModelProto, declared: Mapping[str, int | None]
) -> tuple[onnx.ModelProto, dict[str, int | None]]:
    """A typed graph in float32 throughout, and the declared types by the names that its tensors have there.

    Casts between float types are gone, low weights are float32 of the rounded values.
    """
    types, wanted = element_types(model), dict(declared)
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for tensor in plain.graph.initializer:
        if tensor.data_type in FLOAT_TYPES - {TensorProto.FLOAT}:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    outputs = {value.name for value in plain.graph.output}
    renamed: dict[str, str] = {}
    kept: list[onnx.NodeProto] = []
    for node in plain.graph.node:
        for position, name in enumerate(node.input):
            while name in renamed:
                name = renamed[name]
            node.input[position] = name
        if node.op_type != "Cast" or types[node.output[0]] not in FLOAT_TYPES:
            kept.append(node)
            continue
        if types[node.input[0]] not in FLOAT_TYPES:
            node.attribute[0].i = TensorProto.FLOAT
            kept.append(node)
        elif node.output[0] in outputs:
            _rename(kept, node.input[0], node.output[0])
            wanted[node.output[0]] = wanted[node.input[0]]
            renamed[node.input[0]] = node.output[0]
        else:
            renamed[node.output[0]] = node.input[0]
    replace_nodes(plain, kept)
    return plain, wanted


def _rename(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                if name == old:
                    names[position] = new
