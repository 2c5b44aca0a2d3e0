"""The last convolution and its sigmoid as a node of the plugin library, which reads half and computes in float32.

TensorRT has no convolution of half values whose sums and results are float32: kept in float32, the last convolution
reads a map that was cast and brought to linear layout first.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from sadtrt_core.graph.edit import GraphIndex, attribute, drop_unused, integers, replace_nodes
from sadtrt_core.graph.plugin_nodes import PICTURE_CONV, PLUGIN_VERSION


def fuse_picture(model: onnx.ModelProto, kept: Collection[str]) -> frozenset[str]:
    """Replace a 3x3 convolution to three channels and the sigmoid behind it, both among `kept`, in place.

    The convolution has stride 1, padding 1, one group, a bias, and weights that are initializers; nothing else reads
    what it makes. The graph is fp32. The new node has the convolution's name with `/PictureConv` behind it, so that it
    is not among `kept`: what it reads may be of a lower type. Returns the names of the new nodes.
    """
    graph = GraphIndex(model)
    fused: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        sigmoid = graph.only_reader(node.output[0]) if node.name in kept and _is_last(node, graph) else None
        if sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.name in kept:
            name, picture = f"{node.name}/{PICTURE_CONV}", sigmoid.output[0]
            fused[picture] = helper.make_node(
                PICTURE_CONV, list(node.input), [picture], name=name, plugin_version=PLUGIN_VERSION
            )
    replace_nodes(model, [fused.get(node.output[0], node) for node in model.graph.node])
    if fused:
        drop_unused(model)
    return frozenset(node.name for node in fused.values())


def _is_last(node: onnx.NodeProto, graph: GraphIndex) -> bool:
    if node.op_type != "Conv" or len(node.input) != 3 or not {node.input[1], node.input[2]} <= graph.constants.keys():
        return False
    dims = graph.constants[node.input[1]].dims
    return (
        (dims[0], *dims[2:]) == (3, 3, 3)
        and attribute(node, "group") == 1
        and {*integers(node, "strides"), *integers(node, "dilations"), *integers(node, "pads")} == {1}
    )
