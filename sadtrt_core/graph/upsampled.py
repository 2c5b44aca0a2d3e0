"""Convolutions of nearest-upsampled maps as convolutions of the map itself, whose outputs are put where they belong.

Most taps of a 3x3 kernel read the same value of an upsampled map. Along one axis the first of the s pixels that a value
became sees the value before it and its own, the last its own and the one behind it, those in the middle its own alone.
So one 2x2 convolution of the map, with an output for each of min(s, 3) phases along each axis, has all there is to
compute, a doubled map's in 4/9 of the products; SplitSum (plugin/split_sum) reads the right one for every pixel. Exact
in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import attribute, drop_unused, integers, replace_nodes
from sadtrt_core.graph.plugin_nodes import SPLIT_SUM
from sadtrt_core.graph.split_sum import first_half, second_half

#: kMostScale of plugin/split_sum/problem_check.h.
MOST_SCALE = 16
#: Channels of a vector: those of a sum begin at a multiple.
VECTOR = 8


def convolve_before_upsampling(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    excluded: Collection[str] = (),
    kept: Collection[str] = (),
) -> None:
    """Replace every 3x3 convolution (padding 1, stride 1) that reads an upsampled map, in place.

    The upsampling is nearest, of height and width by the same whole factor, in one node or in several. The graph is
    fp32, its constants are initializers. `excluded` names convolutions that stay as they are. So do those of maps so
    small that the windows at the border outweigh what the phases save; `shapes` has the maps' shapes, 0 for what is not
    known. A replaced node keeps its name, and weights of its own under the old name with `.phases` behind it. A
    SplitSum that adds its outputs up takes the phases as well, for any other there is a new one. Of the others those
    that read one map, upsampled by the same factor, become one convolution under the first one's name, so that the last
    of a GPU's waves is fuller; not some that are `kept` in fp32 with some that are not.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    sums = {node.input[0]: node for node in model.graph.node if node.op_type == SPLIT_SUM}
    wholes: dict[object, tuple[onnx.NodeProto, list[np.ndarray]]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        taken = _is_plain(node, weights) and node.name not in excluded
        source, factor = _before_upsampling(node.input[0], producers, weights) if taken else ("", 1)
        if not 1 < factor <= MOST_SCALE or not _saves(shapes.get(source, ()), factor):
            nodes.append(node)
            continue
        own_sum = sums.get(node.output[0])
        taps = 1 if own_sum is None else attribute(own_sum, "taps_depth")
        kernel = phase_kernel(numpy_helper.to_array(weights[node.input[1]]), factor, taps)
        shares = own_sum is None and len(kernel) % VECTOR == 0
        key = (source, factor, node.name in kept) if shares else node.name
        if key not in wholes:
            wholes[key] = first_half(node.name, [source, f"{node.input[1]}.phases"], (2, 2), [1] * 4), []
            nodes.append(wholes[key][0])
        convolution, kernels = wholes[key]
        if own_sum is None:
            outputs, first = weights[node.input[1]].dims[0], sum(map(len, kernels))
            add = model.graph.initializer.append
            nodes.append(second_half(node, outputs, add, scale=factor, first_channel=first))
            nodes[-1].input[0] = convolution.output[0]
        else:
            own_sum.attribute.append(helper.make_attribute("scale", factor))
        kernels.append(kernel)
    for convolution, kernels in wholes.values():
        model.graph.initializer.append(numpy_helper.from_array(np.concatenate(kernels), convolution.input[1]))
    replace_nodes(model, nodes)
    drop_unused(model)


def phase_kernel(weights: np.ndarray, factor: int, taps: int = 1) -> np.ndarray:
    """A kernel (taps * O, C, 3, 3) as that of the map itself, (taps * phases^2 * O, C, 2, 2), of the same type.

    Channels are in the order tap, phase along height, phase along width, output. Output r of each axis sees the values
    r - 1 and r of the map; a last phase is to be read one further.
    """
    first, middle, last = ((1, 0, 0), (0, 1, 1)), ((0, 0, 0), (1, 1, 1)), ((1, 1, 0), (0, 0, 1))
    # Phase, which of the two values, and whether the kernel's position reads it.
    gather = np.array([first, last] if factor == 2 else [first, middle, last], np.float64)
    by_tap = weights.reshape(taps, -1, *weights.shape[1:]).astype(np.float64)
    summed = np.einsum("tocij,pui,qvj->tpqocuv", by_tap, gather, gather)
    return summed.reshape(-1, weights.shape[1], 2, 2).astype(weights.dtype)


def _saves(shape: tuple[int, ...], factor: int) -> bool:
    """Whether the phases of a map of this shape are fewer products than the convolution of the upsampled map."""
    height, width = shape[-2:] or (0, 0)
    if not (height and width):
        return True
    return (height + 1) * (width + 1) * 4 * min(factor, 3) ** 2 < height * width * factor**2 * 9


def _is_plain(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    if node.op_type != "Conv" or node.input[1] not in weights:
        return False
    expected = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    return attribute(node, "group") == 1 and all(integers(node, name) == value for name, value in expected.items())


def _before_upsampling(
    name: str, producers: dict[str, onnx.NodeProto], weights: dict[str, TensorProto]
) -> tuple[str, int]:
    """The map that upsampling by the factor made the tensor `name` of; the tensor itself and 1 where none did."""
    factor = 1
    while (node := producers.get(name)) is not None and (own := nearest_factor(node, weights)) is not None:
        name, factor = node.input[0], factor * own
    return name, factor


def nearest_factor(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> int | None:
    """By how much a node upsamples height and width of maps or volumes, None for any other node."""
    if node.op_type != "Resize" or len(node.input) < 3 or node.input[2] not in weights:
        return None
    words = {item.name: item.s for item in node.attribute}
    exact = {"mode": b"nearest", "nearest_mode": b"floor", "coordinate_transformation_mode": b"asymmetric"}
    scales = numpy_helper.to_array(weights[node.input[2]]).tolist()
    if any(words.get(key) != value for key, value in exact.items()) or len(scales) < 4:
        return None
    *others, down, across = scales
    whole = set(others) == {1} and down == across == int(down)
    return int(down) if whole else None
