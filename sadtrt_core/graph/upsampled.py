"""Convolutions of nearest-upsampled maps as transposed convolutions of the map itself.

Most taps of a 3x3 kernel read the same value of an upsampled map. Doubled, it takes 4 products in place of 9 for a
value, taken fourfold 36/16: an upsampling by s and a convolution with a kernel of k are one transposed convolution of
stride s, whose kernel of k + s - 1 is the convolution's summed over boxes of s. Exact in real arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import attribute, drop_unused, integers, replace_nodes


def convolve_before_upsampling(model: onnx.ModelProto) -> None:
    """Replace every 3x3 convolution (padding 1, stride 1) that reads an upsampled map, in place.

    The upsampling is nearest, of height and width by the same whole factor, in one node or in several. The graph is
    fp32, its constants are initializers. A replaced node keeps its name, and weights of its own under the old name
    with `.upsampled` behind it.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source, factor = _before_upsampling(node.input[0], producers, weights) if _is_plain(node, weights) else ("", 1)
        if factor == 1:
            nodes.append(node)
            continue
        name = f"{node.input[1]}.upsampled"
        kernel = summed_kernel(numpy_helper.to_array(weights[node.input[1]]), factor)
        model.graph.initializer.append(numpy_helper.from_array(kernel, name))
        nodes.append(
            helper.make_node(
                "ConvTranspose",
                [source, name, *node.input[2:]],
                list(node.output),
                name=node.name,
                kernel_shape=kernel.shape[2:],
                strides=[factor, factor],
                pads=[1, 1, 1, 1],
                dilations=[1, 1],
                group=1,
            )
        )
    replace_nodes(model, nodes)
    drop_unused(model)


def summed_kernel(weights: np.ndarray, factor: int) -> np.ndarray:
    """A convolution's kernel (O, C, 3, 3) as that of the transposed one (C, O, 2 + factor, 2 + factor), same type."""
    side = weights.shape[-1]
    # Tap u of the transposed kernel gathers those taps of the convolution that read the same value through it.
    gather = np.array(
        [[side - 1 <= u + i < side - 1 + factor for i in range(side)] for u in range(side - 1 + factor)], np.float64
    )
    summed = np.einsum("ocij,ui,vj->couv", weights.astype(np.float64), gather, gather)
    return summed.astype(weights.dtype)


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
    """By how much a node upsamples height and width, None for any other node."""
    if node.op_type != "Resize" or len(node.input) < 3 or node.input[2] not in weights:
        return None
    words = {item.name: item.s for item in node.attribute}
    exact = {"mode": b"nearest", "nearest_mode": b"floor", "coordinate_transformation_mode": b"asymmetric"}
    scales = numpy_helper.to_array(weights[node.input[2]]).tolist()
    if any(words.get(key) != value for key, value in exact.items()) or len(scales) != 4:
        return None
    whole = scales[:2] == [1, 1] and scales[2] == scales[3] and scales[2] == int(scales[2])
    return int(scales[2]) if whole else None
