"""Parted convolutions: the same arithmetic, shorter sums, and everything else left alone."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.split_k import LONGEST_SUM, SECOND, split_long_sums
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES

MASK, OCCLUSION = "/dense_motion_network/mask/Conv", "/dense_motion_network/occlusion/Conv"


def one_convolution(
    outputs: int, channels: int, kernel: tuple[int, ...], pads: int, strides: int = 1, group: int = 1, bias: bool = True
) -> onnx.ModelProto:
    spatial = len(kernel)
    random = np.random.default_rng(0)
    weights = random.standard_normal((outputs, channels // group, *kernel)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "w")]
    if bias:
        constants.append(numpy_helper.from_array(random.standard_normal(outputs).astype(np.float32), "b"))
    node = helper.make_node(
        "Conv",
        ["x", *(tensor.name for tensor in constants)],
        ["y"],
        name="/conv",
        kernel_shape=kernel,
        pads=[pads] * 2 * spatial,
        strides=[strides] * spatial,
        dilations=[1] * spatial,
        group=group,
    )
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, *[None] * spatial])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs, *[None] * spatial])
    graph = helper.make_graph([node], "one", [given], [made], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, value: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": value})[0]


@pytest.mark.parametrize(
    ("outputs", "channels", "kernel", "pads", "first"),
    [
        (16, 36, (7, 7, 7), 3, (112, 36, 1, 7, 7)),
        (1, 200, (7, 7), 3, (49, 200, 1, 1)),
        (2, 200, (7, 9), 1, (126, 200, 1, 1)),
        (15, 40, (7, 7, 7), 0, (105, 40, 1, 7, 7)),
        (3, 1000, (3, 5), 2, (45, 1000, 1, 1)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_two_convolutions_give_what_the_one_gave(outputs, channels, kernel, pads, first, bias):
    whole = one_convolution(outputs, channels, kernel, pads, bias=bias)
    parted = onnx.ModelProto()
    parted.CopyFrom(whole)
    assert split_long_sums(parted) == {"/conv"}
    onnx.checker.check_model(parted, full_check=True)
    assert [node.name for node in parted.graph.node] == ["/conv", f"/conv{SECOND}"]
    sizes = {tensor.name: tuple(tensor.dims) for tensor in parted.graph.initializer}
    assert sizes[parted.graph.node[0].input[1]] == first
    value = np.random.default_rng(1).standard_normal((1, channels, 9, 8, 10)[: 2 + len(kernel)]).astype(np.float32)
    expected = run(whole, value)
    np.testing.assert_allclose(run(parted, value), expected, atol=2e-6 * math.sqrt(channels * math.prod(kernel)) * 8)


@pytest.mark.parametrize(
    "convolution",
    [
        one_convolution(16, 8, (7, 7, 7), 3),  # 2,744 products: short enough.
        one_convolution(64, 200, (7, 7), 3),  # 7 times 64 outputs: too many.
        one_convolution(4, 800, (7, 7), 3, group=4),
        one_convolution(1, 200, (7, 7), 3, strides=2),
        one_convolution(1, 9000, (1, 1), 0),  # Long, but the kernel has one position.
    ],
)
def test_what_is_short_wide_grouped_or_strided_stays_whole(convolution):
    before = convolution.SerializeToString()
    assert split_long_sums(convolution) == frozenset()
    assert convolution.SerializeToString() == before


def test_spared_convolutions_stay_whole():
    assert split_long_sums(one_convolution(1, 200, (7, 7), 3), excluded={"/conv"}) == frozenset()


def test_mixed_precision_parts_the_mask_and_occlusion_and_fp16_is_the_usual_recipe(seeded_demo):
    graph = export_stage(seeded_demo, STAGES["motion"])

    def longest(precision: str) -> int:
        typed = apply_precision(graph, PRECISIONS[precision])
        sizes = {tensor.name: tuple(tensor.dims) for tensor in typed.graph.initializer}
        return max(math.prod(sizes[n.input[1]][1:]) for n in typed.graph.node if n.op_type == "Conv")

    assert longest("fp16") > LONGEST_SUM >= longest("fp16-mixed")
    typed = apply_precision(graph, PRECISIONS["fp16-mixed"])
    types = element_types(typed)
    halves = {n.name for n in typed.graph.node if n.op_type == "Conv" and types[n.input[0]] == TensorProto.FLOAT16}
    assert {MASK, MASK + SECOND, OCCLUSION, OCCLUSION + SECOND} <= halves
