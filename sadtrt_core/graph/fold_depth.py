"""Volumes that become maps as nodes of the plugin library, which make channels of depth in the convolutions' layout.

A reshape of (N, C, D, H, W) to (N, C * D, H, W) puts a feature's depths beside one another. Convolutions have and want
their features channels last, where that moves every number, by way of the linear layout. FoldDepth puts the features of
a depth beside one another, which they are already; the convolution's weights are reordered to match. Exact.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import attribute, drop_unused, integers, replace_nodes
from sadtrt_core.graph.plugin_nodes import FOLD_DEPTH, PLUGIN_VERSION
from sadtrt_core.renderer.sampling import NODE_TYPE

Shape = tuple[int, ...]
"""0 for what is not known."""


@dataclass(frozen=True)
class _Fold:
    """A reshape and the one convolution that reads what it makes."""

    reshape: onnx.NodeProto
    reader: onnx.NodeProto
    channels: int
    depth: int


def fold_depth(model: onnx.ModelProto) -> frozenset[str]:
    """Replace the reshapes of volumes (N, C, D, H, W) to maps that one convolution reads, in place.

    The graph is fp32 as it was exported, its constants are initializers. The convolution has one group, and gets
    weights of its own under its own name with `.folded` behind it. Nodes keep their names. Returns the names of the
    reshapes that were replaced.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = _folds(model, weights)
    if not found:
        return frozenset()
    new: dict[str, onnx.NodeProto] = {}
    for fold in found:
        new[fold.reshape.output[0]] = helper.make_node(
            FOLD_DEPTH,
            [fold.reshape.input[0]],
            [fold.reshape.output[0]],
            name=fold.reshape.name,
            plugin_version=PLUGIN_VERSION,
        )
        values = depth_first(numpy_helper.to_array(weights[fold.reader.input[1]]), fold.channels, fold.depth)
        reader = onnx.NodeProto()
        reader.CopyFrom(fold.reader)
        reader.input[1] = f"{reader.name}.folded"
        new[reader.output[0]] = reader
        model.graph.initializer.append(numpy_helper.from_array(values, reader.input[1]))
    replace_nodes(model, [new.get(node.output[0], node) for node in model.graph.node])
    drop_unused(model)
    return frozenset(fold.reshape.name for fold in found)


def depth_first(weights: np.ndarray, channels: int, depth: int) -> np.ndarray:
    """Weights (O, C * D, ...) whose input channel was c * D + d, for one that is d * C + c."""
    outputs, _, *kernel = weights.shape
    return weights.reshape(outputs, channels, depth, *kernel).swapaxes(1, 2).reshape(weights.shape)


def _folds(model: onnx.ModelProto, weights: dict[str, TensorProto]) -> list[_Fold]:
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(value.name for value in model.graph.output)
    readers = {node.input[0]: node for node in model.graph.node if _is_plain(node, weights)}
    candidates = [
        (node, readers[node.output[0]])
        for node in model.graph.node
        if node.op_type == "Reshape" and reads[node.output[0]] == 1 and node.output[0] in readers
    ]
    if not candidates:
        return []
    shapes = tensor_shapes(model)
    found = []
    for reshape, reader in candidates:
        volume, folded = (shapes.get(name, ()) for name in (reshape.input[0], reshape.output[0]))
        if len(volume) != 5 or len(folded) != 4 or 0 in volume[1:]:
            continue
        _, channels, depth, *plane = volume
        if folded[1:] == (channels * depth, *plane):
            found.append(_Fold(reshape, reader, channels, depth))
    return found


def _is_plain(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Whether this is a convolution of one group whose weights are a constant."""
    return node.op_type == "Conv" and node.input[1] in weights and attribute(node, "group") == 1


def tensor_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shape of every tensor of a graph for which there is one, samplers' outputs included, other operators' not."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in model.graph.node:
        if node.op_type == NODE_TYPE:
            sizes = [None, integers(node, "volume_shape")[0], *integers(node, "grid_shape")]
            copy.graph.value_info.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, sizes))
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
