"""The last convolution and its sigmoid as a node of the plugin library, which reads half and computes in float32.

TensorRT has no convolution of half values whose sums and results are float32: kept in float32, the last convolution
reads a map that was cast and brought to linear layout first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx
from onnx import TensorProto, helper

from sadtrt_core.graph.edit import attribute, drop_unused, integers, replace_nodes
from sadtrt_core.graph.plugin_nodes import PICTURE_CONV, PLUGIN_VERSION


def fuse_picture(model: onnx.ModelProto, kept: Collection[str]) -> frozenset[str]:
    """Replace a 3x3 convolution to three channels and the sigmoid behind it, both among `kept`, in place.

    The convolution has stride 1, padding 1, one group, a bias, and weights that are initializers; nothing else reads
    what it makes. The graph is fp32. The new node has the convolution's name with `/PictureConv` behind it, so that it
    is not among `kept`: what it reads may be of a lower type. Returns the names of the new nodes.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(value.name for value in model.graph.output)
    last = {
        node.output[0]: node
        for node in model.graph.node
        if node.name in kept and reads[node.output[0]] == 1 and _is_last(node, weights)
    }
    made: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        convolution = last.get(node.input[0]) if node.op_type == "Sigmoid" and node.name in kept else None
        if convolution is not None:
            name = f"{convolution.name}/{PICTURE_CONV}"
            inputs, outputs = list(convolution.input), list(node.output)
            nodes.append(helper.make_node(PICTURE_CONV, inputs, outputs, name=name, plugin_version=PLUGIN_VERSION))
            made.add(name)
        else:
            nodes.append(node)
    replace_nodes(model, nodes)
    if made:
        drop_unused(model)
    return frozenset(made)


def _is_last(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    if node.op_type != "Conv" or len(node.input) != 3 or not {node.input[1], node.input[2]} <= weights.keys():
        return False
    dims = weights[node.input[1]].dims
    return (
        (dims[0], *dims[2:]) == (3, 3, 3)
        and attribute(node, "group") == 1
        and {*integers(node, "strides"), *integers(node, "dilations"), *integers(node, "pads")} == {1}
    )
