"""Reshapes of volumes to maps as nodes of the plugin: what is replaced, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from plugin_operators import evaluate

from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.fold_depth import fold_depth
from sadtrt_core.renderer.stages import STAGES, call_stage, stage_module


def convolution(name, weights="weights", output="y", group=1):
    shape = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [1] * 4}
    return helper.make_node("Conv", ["map", weights], [output], name=name, group=group, **shape)


def integers(shape, seed):
    """Of float32, so that their sums are exact in any order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def folding_graph(channels=8, target=(-1, 24, 4, 5), group=1, more=(), outputs=("y",), constant=True):
    weights = integers((2, 24 // group, 3, 3), seed=1)
    constants = [
        numpy_helper.from_array(np.array(target, np.int64), "shape"),
        numpy_helper.from_array(weights, "weights"),
    ]
    inputs = [helper.make_tensor_value_info("volume", TensorProto.FLOAT, ["batch", channels, 24 // channels, 4, 5])]
    if not constant:
        del constants[1]
        inputs.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, weights.shape))
    nodes = [
        helper.make_node("Reshape", ["volume", "shape"], ["map"], name="reshape"),
        convolution("convolution", group=group),
        *more,
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "folding", inputs, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_convolution_of_a_folded_volume_gives_what_it_gave():
    model = folding_graph()
    volume = {"volume": integers((2, 8, 3, 4, 5), seed=2)}
    (expected,) = evaluate(model, volume)
    assert fold_depth(model) == {"reshape"}
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("FoldDepth", "reshape"),
        ("Conv", "convolution"),
    ]
    assert [tensor.name for tensor in model.graph.initializer] == ["convolution.folded"]
    (actual,) = evaluate(model, volume)
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": (-1, 24, 5, 4)},
        {"target": (-1, 24, 2, 10)},
        {"group": 2},
        {"constant": False},
        {"more": (convolution("other", output="z"),), "outputs": ("y", "z")},
        {"outputs": ("y", "map")},
    ],
)
def test_other_reshapes_stay(changes):
    model = folding_graph(**changes)
    before = model.SerializeToString()
    assert not fold_depth(model)
    assert model.SerializeToString() == before


def test_who_else_reads_the_weights_reads_them_as_they_were():
    norm = helper.make_node("ReduceSum", ["weights"], ["sum"], name="sum")
    model = folding_graph(more=(norm,), outputs=("y", "sum"))
    before = numpy_helper.to_array(model.graph.initializer[1])
    assert fold_depth(model) == {"reshape"}
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(kept["weights"], before)
    assert not np.array_equal(kept["convolution.folded"], before)


def test_the_warped_volume_is_folded_without_a_change_of_the_map(seeded_demo):
    model = export_stage(seeded_demo, STAGES["warp"])
    constants_to_initializers(model)
    generator = torch.Generator().manual_seed(5)
    inputs = {
        spec.name: torch.rand(spec.batched(2), generator=generator) * 2 - 1
        for spec in STAGES["warp"].inputs(seeded_demo.config)
    }
    expected = call_stage(stage_module(STAGES["warp"], seeded_demo), tuple(inputs.values()))
    assert fold_depth(model) == {"/Reshape"}
    actual = evaluate(model, {name: tensor.numpy() for name, tensor in inputs.items()})
    for old, new in zip(expected, actual, strict=True):
        assert np.abs(new - old.numpy()).max() < 2e-5
