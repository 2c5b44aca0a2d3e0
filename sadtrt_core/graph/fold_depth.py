"""Volumes that become maps as nodes of the plugin library, which make channels of depth in the convolutions' layout.

A reshape of (N, C, D, H, W) to (N, C * D, H, W) puts a feature's depths beside one another. Convolutions have and want
their features channels last, where that moves every number, by way of the linear layout. FoldDepth puts the features of
a depth beside one another, which they are already; the convolution's weights are reordered to match. Exact.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import GraphIndex, attribute, drop_unused, integers, replace_nodes
from sadtrt_core.graph.plugin_nodes import FOLD_DEPTH, PLUGIN_VERSION
from sadtrt_core.renderer.sampling import NODE_TYPE

#: A constant of more elements is no shape, nor what a shape is computed from.
_LONGEST_SHAPE = 64


def fold_depth(model: onnx.ModelProto) -> frozenset[str]:
    """Replace the reshapes of volumes (N, C, D, H, W) to maps that one convolution reads, in place.

    The graph is fp32 as it was exported, its constants are initializers. The convolution has one group, and gets
    weights of its own under its own name with `.folded` behind it. Nodes keep their names. Returns the names of the
    reshapes that were replaced.
    """
    graph = GraphIndex(model)
    pairs = [
        (node, reader)
        for node in model.graph.node
        if node.op_type == "Reshape"
        and (reader := graph.only_reader(node.output[0])) is not None
        and _is_plain(reader, graph)
    ]
    if not pairs:
        return frozenset()
    shapes, folded = tensor_shapes(model), []
    for reshape, reader in pairs:
        volume, maps = (shapes.get(name, ()) for name in (reshape.input[0], reshape.output[0]))
        if len(volume) != 5 or 0 in volume[1:]:
            continue
        _, channels, depth, *plane = volume
        if maps[1:] == (channels * depth, *plane):
            values = depth_first(numpy_helper.to_array(graph.constants[reader.input[1]]), channels, depth)
            reader.input[1] = f"{reader.name}.folded"
            model.graph.initializer.append(numpy_helper.from_array(values, reader.input[1]))
            folded.append(reshape)
    new = {
        node.output[0]: helper.make_node(
            FOLD_DEPTH, [node.input[0]], list(node.output), name=node.name, plugin_version=PLUGIN_VERSION
        )
        for node in folded
    }
    replace_nodes(model, [new.get(node.output[0], node) for node in model.graph.node])
    drop_unused(model)
    return frozenset(node.name for node in folded)


def depth_first(weights: np.ndarray, channels: int, depth: int) -> np.ndarray:
    """Weights (O, C * D, ...) whose input channel was c * D + d, for one that is d * C + c."""
    outputs, _, *kernel = weights.shape
    return weights.reshape(outputs, channels, depth, *kernel).swapaxes(1, 2).reshape(weights.shape)


def _is_plain(node: onnx.NodeProto, graph: GraphIndex) -> bool:
    """Whether this is a convolution of one group whose weights are a constant."""
    return node.op_type == "Conv" and node.input[1] in graph.constants and attribute(node, "group") == 1


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a graph for which there is one, 0 for a size that is not known.

    Samplers' outputs are included, other operators' of ours are not.
    """
    graph = model.graph
    # Weights are inputs here: their values say nothing of a shape, and would be copied several times over.
    weights = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > _LONGEST_SHAPE]
    shapes = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= _LONGEST_SHAPE]
    doors = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights]
    plain = helper.make_graph(graph.node, graph.name, [*graph.input, *doors], graph.output, shapes)
    plain.value_info.extend(graph.value_info)
    copy = helper.make_model(plain, opset_imports=model.opset_import, ir_version=model.ir_version)
    for node in model.graph.node:
        if node.op_type == NODE_TYPE:
            sizes = [None, integers(node, "volume_shape")[0], *integers(node, "grid_shape")]
            copy.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, sizes))
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *graph.input, *inferred.graph.output)
    }
