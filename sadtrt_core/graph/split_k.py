"""Split-K: a convolution of few outputs and a very long sum becomes two, partial sums first and their sum after.

Some half kernels accumulate in half (TensorRT 8.6's on Hopper do), so that a long sum is rounded many times. What that
costs is in results/README.md.

A convolution is linear in its kernel's positions. So its kernel's leading axes become outputs of a first convolution,
one output for each of their positions, and a second one, whose weights are zeros and ones, shifts these to where they
belong and adds them. The arithmetic is the same, each accumulation is shorter by the number of those positions, and the
first convolution has enough outputs to fill a matrix instruction. Where the plugin's operators are known, SplitSum
(plugin/split_sum) takes the second one's place for maps.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import attribute, integers, replace_nodes
from sadtrt_core.graph.split_sum import SECOND, first_half, is_same, second_half

#: Sums of more products than these are split.
LONGEST_SUM = 8192
#: As long as the first convolution has at most so many outputs: more would cost more memory traffic than they save.
MOST_OUTPUTS = 128


def split_long_sums(model: onnx.ModelProto, excluded: Collection[str] = (), operators: bool = False) -> frozenset[str]:
    """Split the convolutions of an fp32 graph whose sums are longer than LONGEST_SUM, in place.

    The graph's constants are initializers. `excluded` names convolutions that stay as they are. So do those with more
    than one group, with dilations, or with strides along the axes in question, and those whose outputs would become
    more than MOST_OUTPUTS. `operators`: the plugin's are known. Returns the names of those that were split.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    split: set[str] = set()
    for node in model.graph.node:
        axes = 0 if node.name in excluded else _leading_axes(node, weights)
        if not axes:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(weights[node.input[1]])
        if operators and (taps := _taps(node, values.shape[2:], axes)):
            nodes += _split_for_operator(node, values, taps, model)
        else:
            pair = _split(node, values, axes)
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


def _taps(node: onnx.NodeProto, kernel: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """The positions of a map's convolution along height and width that SplitSum may add up; none for any other."""
    pads, strides = integers(node, "pads"), integers(node, "strides")
    of_axes = tuple(pads[axis] for axis in range(4) if axis % 2 < axes) if len(kernel) == 2 else ()
    fits = len(kernel) == 2 and is_same(kernel[:axes], of_axes) and set(strides) == {1}
    return (*kernel[:axes], *[1] * (2 - axes)) if fits else ()


def _by_position(weights: np.ndarray, axes: int) -> np.ndarray:
    """Kernels (O, C, folded..., rest...) as (folded... * O, C, 1..., rest...)."""
    outputs, channels, *kernel = weights.shape
    first = np.moveaxis(weights, range(2, 2 + axes), range(axes))
    return first.reshape(math.prod(kernel[:axes]) * outputs, channels, *[1] * axes, *kernel[axes:])


def _split_for_operator(
    node: onnx.NodeProto, weights: np.ndarray, taps: tuple[int, ...], model: onnx.ModelProto
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """A convolution of maps, and the operator that adds its outputs up; their constants are added to the model."""
    first, name = _by_position(weights, sum(size > 1 for size in taps)), f"{node.name}.weight"
    model.graph.initializer.append(numpy_helper.from_array(first, name))
    pads = [0 if taps[axis % 2] > 1 else pad for axis, pad in enumerate(integers(node, "pads"))]
    one = first_half(node.name, [node.input[0], name], first.shape[2:], pads)
    add = model.graph.initializer.append
    return one, second_half(node, weights.shape[0], add, taps_height=taps[0], taps_width=taps[1])


def _split(
    node: onnx.NodeProto, weights: np.ndarray, axes: int
) -> tuple[onnx.NodeProto, onnx.NodeProto, TensorProto, TensorProto]:
    """The two convolutions and their weights. Channels of what lies between: kernel position, then output."""
    outputs, _, *kernel = weights.shape
    spatial, folded = len(kernel), kernel[:axes]
    pads, strides = list(integers(node, "pads")), list(integers(node, "strides"))
    positions = math.prod(folded)
    first = _by_position(weights, axes)
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
