"""Split-K: a convolution of few outputs and a very long sum becomes two, partial sums first and their sum after.

Some half kernels accumulate in half (TensorRT 8.6's on Hopper do), so that a long sum is rounded many times. What that
costs is in results/README.md.

A convolution is linear in its kernel's positions. So its kernel's leading axes become outputs of a first convolution,
one output for each of their positions, and a second one, whose weights are zeros and ones, shifts these to where they
belong and adds them. The arithmetic is the same, each accumulation is shorter by the number of those positions, and the
first convolution has enough outputs to fill a matrix instruction.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import attribute, integers, replace_nodes

#: Sums of more products than these are split.
LONGEST_SUM = 8192
#: As long as the first convolution has at most so many outputs: more would cost more memory traffic than they save.
MOST_OUTPUTS = 128
SECOND = "/parts"
"""What the second convolution's name has behind the first's, which keeps the name of the whole."""


def split_long_sums(model: onnx.ModelProto, excluded: Collection[str] = ()) -> frozenset[str]:
    """Split the convolutions of an fp32 graph whose sums are longer than LONGEST_SUM, in place.

    The graph's constants are initializers. `excluded` names convolutions that stay as they are. So do those with more
    than one group, with dilations, or with strides along the axes in question, and those whose outputs would become
    more than MOST_OUTPUTS. Returns the names of those that were split.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    split: set[str] = set()
    for node in model.graph.node:
        axes = 0 if node.name in excluded else _leading_axes(node, weights)
        if not axes:
            nodes.append(node)
            continue
        pair = _split(node, numpy_helper.to_array(weights[node.input[1]]), axes)
        nodes += pair[:2]
        model.graph.initializer.extend(pair[2:])
        split.add(node.name)
    replace_nodes(model, nodes)
    return frozenset(split)


def split_weights(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the initializers that `split_long_sums` has to read: whoever makes them inputs leaves sums whole."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return frozenset(node.input[1] for node in model.graph.node if _leading_axes(node, weights))


def _leading_axes(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> int:
    """How many leading axes of the kernel are to become outputs: 0 for a node that stays as it is."""
    if node.op_type != "Conv" or node.input[1] not in weights:
        return 0
    outputs, *products = weights[node.input[1]].dims
    kernel, strides = products[1:], integers(node, "strides")
    if math.prod(products) <= LONGEST_SUM or attribute(node, "group") != 1 or set(integers(node, "dilations")) != {1}:
        return 0
    axes = 0
    while axes < len(kernel) and strides[axes] == 1 and outputs * math.prod(kernel[: axes + 1]) <= MOST_OUTPUTS:
        axes += 1
    return axes if math.prod(kernel[:axes]) > 1 else 0


def _split(
    node: onnx.NodeProto, weights: np.ndarray, axes: int
) -> tuple[onnx.NodeProto, onnx.NodeProto, TensorProto, TensorProto]:
    """The two convolutions and their weights. Channels of what lies between: kernel position, then output."""
    outputs, channels, *kernel = weights.shape
    spatial, folded = len(kernel), kernel[:axes]
    pads, strides = list(integers(node, "pads")), list(integers(node, "strides"))
    positions = math.prod(folded)
    # (O, C, folded..., rest...) to (folded..., O, C, rest...).
    first = np.moveaxis(weights, range(2, 2 + axes), range(axes))
    first = first.reshape(positions * outputs, channels, *[1] * axes, *kernel[axes:])
    second = np.zeros((outputs, positions, outputs, positions), dtype=weights.dtype)
    for output in range(outputs):
        second[output, :, output, :] = np.eye(positions)
    second = second.reshape(outputs, positions * outputs, *folded, *[1] * (spatial - axes))

    def part(name: str, inputs: list[str], outputs: list[str], values: np.ndarray, own: range) -> onnx.NodeProto:
        """A convolution that pads and strides along its own axes alone."""
        return helper.make_node(
            "Conv",
            inputs,
            outputs,
            name=name,
            kernel_shape=values.shape[2:],
            pads=[pads[axis] if axis % spatial in own else 0 for axis in range(2 * spatial)],
            strides=[strides[axis] if axis in own else 1 for axis in range(spatial)],
            dilations=[1] * spatial,
            group=1,
        )

    names = [f"{node.name}{suffix}.weight" for suffix in ("", SECOND)]
    between = f"{node.name}{SECOND}_input"
    one = part(node.name, [node.input[0], names[0]], [between], first, range(axes, spatial))
    # The strides along the leading axes are 1, or the convolution would not be split.
    two = part(f"{node.name}{SECOND}", [between, names[1], *node.input[2:]], list(node.output), second, range(axes))
    return one, two, numpy_helper.from_array(first, names[0]), numpy_helper.from_array(second, names[1])
