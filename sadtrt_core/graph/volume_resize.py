"""Pooling and doubling of volumes as nodes of the plugin library, which work in the convolutions' layout.

TensorRT pools and resizes volumes in linear layout only, so that each stands between two reformats.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from sadtrt_core.graph.edit import replace_nodes
from sadtrt_core.graph.plugin_nodes import PLUGIN_VERSION, VOLUME_RESIZE

HALVE, DOUBLE = 0, 1
"""Attribute mode: SADTRT_HALVE and SADTRT_DOUBLE of plugin/volume_resize/volume_resize.h."""

#: What a node has to say, and what a node that does not say it means by that.
_POOL = {"kernel_shape": [1, 2, 2], "strides": [1, 2, 2]}
_POOL_DEFAULTS = {"auto_pad": b"NOTSET", "ceil_mode": 0, "dilations": [1] * 3, "pads": [0] * 6}
_DOUBLING = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
_DOUBLED = [1, 1, 1, 2, 2]


def replace_volume_resizes(model: onnx.ModelProto) -> frozenset[str]:
    """Replace every 2x2 mean and nearest doubling of height and width of volumes (N, C, D, H, W), in place.

    The graph's constants are initializers. Nodes keep their names; those of any other attributes stay as they are.
    Returns the names of those that were replaced.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in model.graph.node:
        mode = _mode(node, constants)
        if mode is None:
            nodes.append(node)
            continue
        nodes.append(
            helper.make_node(
                VOLUME_RESIZE,
                [node.input[0]],
                [node.output[0]],
                name=node.name,
                mode=mode,
                plugin_version=PLUGIN_VERSION,
            )
        )
        replaced.add(node.name)
    replace_nodes(model, nodes)
    return frozenset(replaced)


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
