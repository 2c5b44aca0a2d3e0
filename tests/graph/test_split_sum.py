"""What a split convolution's sum takes in, and what stays beside it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from plugin_operators import evaluate

from sadtrt_core.graph.split_k import split_long_sums
from sadtrt_core.graph.split_sum import fuse_split_sums

CONV = {"strides": [1, 1], "dilations": [1, 1], "group": 1}


def summed_graph(*behind, outputs=("y",), bias=True, kernel=(7, 7), pads=(3, 3, 3, 3)):
    """A long sum as convolution and SplitSum, and the nodes behind it; `m` is a map of as many places."""
    generator = np.random.default_rng(1)
    weights = generator.integers(-2, 3, (2, 200, *kernel)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "w")]
    if bias:
        constants.append(numpy_helper.from_array(np.array([3, -2], np.float32), "b"))
    names = [constant.name for constant in constants]
    conv = helper.make_node("Conv", ["x", *names], ["s"], name="/c", kernel_shape=kernel, pads=pads, **CONV)
    sizes = {"x": [2, 200, 6, 7], "m": [2, 3, 6, 7]}
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([conv, *behind], "summed", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


RELU = helper.make_node("Relu", ["s"], ["r"], name="/relu")
POOL = helper.make_node("AveragePool", ["r"], ["y"], name="/pool", kernel_shape=[2, 2], strides=[2, 2])
JOIN = helper.make_node("Concat", ["r", "m"], ["y"], name="/join", axis=1)


def results(model):
    generator = np.random.default_rng(2)
    inputs = {"x": (2, 200, 6, 7), "m": (2, 3, 6, 7)}
    read = {name for node in model.graph.node for name in node.input}
    return evaluate(
        model,
        {n: generator.integers(-2, 3, shape).astype(np.float32) for n, shape in inputs.items() if n in read},
    )


def kinds(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("behind", "last"), [((), "SplitSum"), ((RELU, POOL), "SplitSum"), ((RELU, JOIN), "SplitSumJoin")]
)
def test_a_sum_does_what_is_behind_it(behind, last, bias):
    model = summed_graph(*behind, bias=bias, outputs=("y",) if behind else ("s",))
    if not behind:
        del model.graph.input[1:]
    expected = results(model)
    assert split_long_sums(model, operators=True) == {"/c"}
    assert fuse_split_sums(model, kept=()) == frozenset()
    assert kinds(model) == ["Conv", last]
    assert model.graph.node[-1].name == "/c/parts"
    # Whole numbers: nothing is rounded but the means' quarters, which are exact too.
    for old, new in zip(expected, results(model), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    ("behind", "outputs", "kept", "left"),
    [
        ((RELU, POOL), ("y", "s"), (), ["Relu", "AveragePool"]),
        ((RELU, POOL), ("y", "r"), (), ["AveragePool"]),
        ((RELU, POOL), ("y",), ("/relu",), ["Relu", "AveragePool"]),
        ((RELU, POOL), ("y",), ("/pool",), ["AveragePool"]),
        ((RELU, POOL), ("y",), ("/c", "/relu"), ["AveragePool"]),
        ((RELU, helper.make_node("Concat", ["m", "r"], ["y"], name="/join", axis=1)), ("y",), (), ["Concat"]),
        ((RELU, helper.make_node("Concat", ["r", "m", "m"], ["y"], name="/join", axis=1)), ("y",), (), ["Concat"]),
        ((RELU, helper.make_node("Concat", ["r", "r"], ["y"], name="/join", axis=1)), ("y",), (), ["Concat"]),
    ],
)
def test_only_what_reads_the_sum_alone_and_is_of_its_type_is_taken_in(behind, outputs, kept, left):
    model = summed_graph(*behind, outputs=outputs)
    expected = results(model)
    split_long_sums(model, operators=True)
    names = fuse_split_sums(model, kept)
    assert names >= frozenset(kept) & {node.name for node in model.graph.node}
    assert ("/c/parts" in names) == ("/c" in kept)
    assert kinds(model) == ["Conv", "SplitSum", *left]
    for old, new in zip(expected, results(model), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    ("kernel", "pads"), [((7, 7), (2, 3, 2, 3)), ((7, 7), (3, 3, 4, 3)), ((6, 9), (3, 4, 2, 4)), ((1, 43), (0,) * 4)]
)
def test_other_paddings_are_added_up_by_a_convolution(kernel, pads):
    model = summed_graph(outputs=("s",), kernel=kernel, pads=pads)
    assert split_long_sums(model, operators=True) == {"/c"}
    assert kinds(model) == ["Conv", "Conv"]
