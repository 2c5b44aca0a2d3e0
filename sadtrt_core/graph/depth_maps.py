"""Volumes as maps: a volume's depths beside one another in the batch, and its convolutions in the plane.

Channels last, a volume (N, C, D, H, W) has the bytes of N * D maps (C, H, W), and convolutions of maps run at a higher
rate than those of volumes. A kernel's positions along depth become outputs, which SplitSum adds up. Exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import attribute, integers
from sadtrt_core.graph.plugin_nodes import FOLD_DEPTH, MOTION_SUM
from sadtrt_core.graph.split_sum import first_half, is_same, second_half
from sadtrt_core.graph.upsampled import nearest_factor

#: Operators to which it is one whether there is an axis of depth.
_ANY_AXES = frozenset({"Relu", "LeakyRelu", "Concat"})
#: The operators that take maps for volumes, and what they make is neither.
_ENDS = frozenset({FOLD_DEPTH, MOTION_SUM})


class OtherForm(Exception):
    """A graph is not of the form that is looked for."""


def require(condition: bool) -> None:
    """Raises OtherForm unless it holds."""
    if not condition:
        raise OtherForm


def volumes_as_maps(
    nodes: Iterable[onnx.NodeProto], constants: dict[str, TensorProto], first: str, depth: int
) -> list[onnx.NodeProto]:
    """Sorted nodes, with all that is computed from the volume `first`, whose depth it is, computed from its maps.

    `constants` are the graph's initializers, to which those of the new nodes are added. Raises OtherForm where a node
    reads a volume and is none of those that there are forms for.
    """
    maps = {first}
    made: list[onnx.NodeProto] = []
    for node in nodes:
        if not maps.intersection(node.input):
            made.append(node)
            continue
        require(node.input[0] in maps)
        made += _of_maps(node, constants, maps, depth)
        if node.op_type not in _ENDS:
            maps.update(node.output)
    return made


def _of_maps(
    node: onnx.NodeProto, constants: dict[str, TensorProto], maps: set[str], depth: int
) -> list[onnx.NodeProto]:
    """The same of maps; `maps` are the names of what was volumes."""
    if node.op_type == "Conv":
        return _convolution(node, constants, depth)
    new = deepcopy(node)
    if node.op_type == FOLD_DEPTH:
        new.attribute.append(helper.make_attribute("depth", depth))
    elif node.op_type == "AveragePool":
        _leave_depth_out(new)
    elif node.op_type == "Resize":
        require(nearest_factor(node, constants) is not None)
        scales = numpy_helper.to_array(constants[node.input[2]])
        new.input[2] = f"{node.name}.scales"
        constants[new.input[2]] = numpy_helper.from_array(np.delete(scales, 2), new.input[2])
    elif node.op_type == "Concat":
        require(attribute(node, "axis") == 1 and maps.issuperset(node.input))
    else:
        require(node.op_type in _ANY_AXES or node.op_type == MOTION_SUM)
    return [new]


def _leave_depth_out(pool: onnx.NodeProto) -> None:
    """Make a mean over the plane of volumes one of maps, in place."""
    for item in pool.attribute:
        if len(item.ints) % 3 == 0 and item.ints:
            ends = len(item.ints) // 3
            own = [item.ints[3 * end] for end in range(ends)]
            require(own == ([0, 0] if ends == 2 else [1]))
            item.ints[:] = [value for end in range(ends) for value in item.ints[3 * end + 1 : 3 * end + 3]]


def _convolution(node: onnx.NodeProto, constants: dict[str, TensorProto], depth: int) -> list[onnx.NodeProto]:
    """Its two halves; what lies between has an output for each position along depth, then for each of the outputs."""
    require(node.input[1] in constants and attribute(node, "group") == 1)
    weights = numpy_helper.to_array(constants[node.input[1]])
    require(weights.ndim == 5 and is_same(weights.shape[2:], integers(node, "pads")))
    require({*integers(node, "strides"), *integers(node, "dilations")} == {1})
    outputs, channels, taps, *kernel = weights.shape
    name = f"{node.name}.by_depth"
    by_depth = np.moveaxis(weights, 2, 0).reshape(taps * outputs, channels, *kernel)
    constants[name] = numpy_helper.from_array(np.ascontiguousarray(by_depth), name)
    convolution = first_half(node.name, [node.input[0], name], tuple(kernel), [size // 2 for size in kernel] * 2)

    def add_constant(tensor: TensorProto) -> None:
        constants[tensor.name] = tensor

    return [convolution, second_half(node, outputs, add_constant, depth=depth, taps_depth=taps)]
