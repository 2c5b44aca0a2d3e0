"""Pooling and doubling of volumes as nodes of the plugin library, which work in the convolutions' layout.

TensorRT pools and resizes volumes in linear layout only, so that each stands between two reformats. A concatenation of
two volumes that are doubled together is part of the node: TensorRT would copy what others read as well.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import helper, numpy_helper

from sadtrt_core.graph.edit import attribute, drop_unused, replace_nodes
from sadtrt_core.graph.plugin_nodes import PLUGIN_VERSION, VOLUME_JOIN_DOUBLE, VOLUME_RESIZE

HALVE, DOUBLE = 0, 1
"""Attribute mode: SADTRT_HALVE and SADTRT_DOUBLE of plugin/volume_resize/volume_resize.h."""

#: What a node has to say, and what a node that does not say it means by that.
_POOL = {"kernel_shape": [1, 2, 2], "strides": [1, 2, 2]}
_POOL_DEFAULTS = {"auto_pad": b"NOTSET", "ceil_mode": 0, "dilations": [1] * 3, "pads": [0] * 6}
_DOUBLING = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
_DOUBLED = [1, 1, 1, 2, 2]


def replace_volume_resizes(model: onnx.ModelProto) -> frozenset[str]:
    """Replace every 2x2 mean and nearest doubling of height and width of volumes (N, C, D, H, W), in place.

    The graph's constants are initializers. Two volumes that are joined along their channels for a doubling alone are
    joined by it. Nodes keep their names, a doubling that joins that of the doubling; those of any other attributes stay
    as they are. Returns the names of those that were replaced.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    joined = _joined_pairs(model)
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in model.graph.node:
        mode = _mode(node, constants)
        if mode is None:
            nodes.append(node)
            continue
        pair = joined.get(node.input[0]) if mode == DOUBLE else None
        operator, inputs = (VOLUME_RESIZE, [node.input[0]]) if pair is None else (VOLUME_JOIN_DOUBLE, pair)
        made = helper.make_node(operator, inputs, [node.output[0]], name=node.name, plugin_version=PLUGIN_VERSION)
        if pair is None:
            made.attribute.append(helper.make_attribute("mode", mode))
        nodes.append(made)
        replaced.add(node.name)
    replace_nodes(model, nodes)
    if replaced:
        drop_unused(model)
    return frozenset(replaced)


def _joined_pairs(model: onnx.ModelProto) -> dict[str, list[str]]:
    """The two tensors that each tensor is made of along its channels, of those that one node reads."""
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(value.name for value in model.graph.output)
    return {
        node.output[0]: list(node.input)
        for node in model.graph.node
        if node.op_type == "Concat"
        and len(node.input) == 2
        and attribute(node, "axis") == 1
        and reads[node.output[0]] == 1
    }


def _mode(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int | None:
    said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "AveragePool":
        wanted = _POOL | _POOL_DEFAULTS
        return HALVE if all((_POOL_DEFAULTS | said).get(name) == value for name, value in wanted.items()) else None
    if node.op_type != "Resize" or any(said.get(name) != value for name, value in _DOUBLING.items()):
        return None
    region, scales, sizes = [*node.input[1:], "", "", ""][:3]
    if region or sizes or scales not in constants:
        return None
    return DOUBLE if numpy_helper.to_array(constants[scales]).tolist() == _DOUBLED else None
