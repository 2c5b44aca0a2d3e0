"""Convolutions in two halves: what an operator adds up takes in the activation, the mean and the join behind it.

Some positions of a kernel become outputs of a convolution: those along a volume's depth (graph/depth_maps.py), those of
an upsampled map's pixels (graph/upsampled.py), or a long sum's (graph/split_k.py). SplitSum (plugin/split_sum) shifts
the outputs to where they belong and adds them and the bias in float. It has the convolution's name with SECOND behind
it, and is of the same type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sadtrt_core.graph.edit import GraphIndex, attribute, drop_unused, replace_nodes
from sadtrt_core.graph.plugin_nodes import PLUGIN_VERSION, SPLIT_SUM, SPLIT_SUM_JOIN

SECOND = "/parts"
"""What the second half's name has behind the first's, which keeps the name of the whole."""
MOST_TAPS = 15
"""Along an axis: kMostTaps of plugin/split_sum/problem_check.h."""

#: What a mean has to say, and what one that does not say it means by that.
_POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
_POOL_DEFAULTS = {"auto_pad": b"NOTSET", "ceil_mode": 0, "dilations": [1] * 2, "pads": [0] * 4}


def first_half(name: str, inputs: list[str], kernel: tuple[int, ...], pads: list[int]) -> onnx.NodeProto:
    """The convolution of a pair, without a bias, in the plane of maps; `inputs` are the map and the weights."""
    return helper.make_node(
        "Conv",
        inputs,
        [f"{name}{SECOND}_input"],
        name=name,
        kernel_shape=kernel,
        pads=pads,
        strides=[1, 1],
        dilations=[1, 1],
        group=1,
    )


def second_half(
    whole: onnx.NodeProto, outputs: int, add_constant: Callable[[onnx.TensorProto], None], **attributes: Any
) -> onnx.NodeProto:
    """The sum of a pair that stands for a convolution of so many outputs; zeros where that has no bias."""
    bias = f"{whole.name}{SECOND}.bias"
    if len(whole.input) > 2:
        bias = whole.input[2]
    else:
        add_constant(numpy_helper.from_array(np.zeros(outputs, np.float32), bias))
    return helper.make_node(
        SPLIT_SUM,
        [f"{whole.name}{SECOND}_input", bias],
        list(whole.output),
        name=f"{whole.name}{SECOND}",
        plugin_version=PLUGIN_VERSION,
        **attributes,
    )


def is_same(kernel: tuple[int, ...], pads: tuple[int, ...]) -> bool:
    """Whether a convolution with this kernel along some axes, and these pads before and after, is centred on them."""
    centred = all(size % 2 == 1 and size <= MOST_TAPS for size in kernel)
    return centred and pads == tuple(size // 2 for size in kernel) * 2


def fuse_split_sums(model: onnx.ModelProto, kept: Collection[str]) -> frozenset[str]:
    """Let every SplitSum take in the ReLU, then the 2x2 mean or the concatenation behind it, in place.

    The graph's constants are initializers. Only nodes are taken in that are `kept` in fp32 as the sum's convolution is,
    or are not as that is not. Returns what is kept, the sums among it.
    """
    graph = GraphIndex(model)
    sums = [node for node in model.graph.node if node.op_type == SPLIT_SUM]
    are_kept = {node.name for node in sums if graph.makers[node.input[0]].name in kept}
    names = frozenset(kept) - {node.name for node in sums} | are_kept
    taken: dict[str, onnx.NodeProto | None] = {}
    for node in sums:
        whole = deepcopy(node)
        while (behind := graph.only_reader(whole.output[0])) is not None and _take_in(whole, behind, names):
            taken[whole.output[0]] = None
            whole.output[0] = behind.output[0]
        taken[whole.output[0]] = whole
    nodes = [taken.get(node.output[0], node) for node in model.graph.node]
    replace_nodes(model, [node for node in nodes if node is not None])
    drop_unused(model)
    return names


def _take_in(whole: onnx.NodeProto, behind: onnx.NodeProto, kept: frozenset[str]) -> bool:
    """Make a sum do what the only node behind it does, where it can; whether it does now."""
    said = {item.name: helper.get_attribute_value(item) for item in whole.attribute}
    if (behind.name in kept) != (whole.name in kept) or whole.op_type != SPLIT_SUM or "pool" in said:
        return False
    if behind.op_type == "Relu" and "slope" not in said:
        whole.attribute.append(helper.make_attribute("slope", 0.0))
    elif behind.op_type == "AveragePool" and said.get("scale", 1) == 1 and _is_mean(behind):
        whole.attribute.append(helper.make_attribute("pool", 1))
    elif behind.op_type == "Concat" and _puts_one_behind(behind, whole.output[0]):
        whole.op_type = SPLIT_SUM_JOIN
        whole.input.append(behind.input[1])
    else:
        return False
    return True


def _is_mean(pool: onnx.NodeProto) -> bool:
    """Whether it takes the means of 2x2, an odd last row or column left out."""
    own = _POOL_DEFAULTS | {item.name: helper.get_attribute_value(item) for item in pool.attribute}
    return all(own.get(name) == value for name, value in (_POOL | _POOL_DEFAULTS).items())


def _puts_one_behind(concat: onnx.NodeProto, first: str) -> bool:
    """Whether it puts the channels of one other tensor behind those of the first."""
    return len(concat.input) == 2 and concat.input[0] == first and attribute(concat, "axis") == 1
