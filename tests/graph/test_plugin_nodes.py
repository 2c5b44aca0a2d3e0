"""Graphs with dense motion and the resizes of volumes as nodes of the plugin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from plugin_operators import evaluate

from sadtrt_core.graph.dense_motion import fuse_dense_motion
from sadtrt_core.graph.edit import constants_to_initializers, element_types
from sadtrt_core.graph.export import export_stage, typed_graph
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.plugin_nodes import PLUGIN_NODES
from sadtrt_core.graph.typed import apply_precision, coordinate_slice
from sadtrt_core.graph.volume_resize import replace_volume_resizes
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES, call_stage, stage_module

#: The hourglass's five halvings and first doubling, and the four doublings that join a skip.
RESIZES = {"VolumeJoinDouble": 4, "VolumeResize": 6}
#: In fp32, so that nothing but the operators is new.
FP32 = replace(PRECISIONS["fp32"], operators=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def motion_inputs(config, batch):
    generator = torch.Generator().manual_seed(5)
    volume, *points = STAGES["motion"].inputs(config)
    inputs = {volume.name: torch.randn(volume.batched(batch), generator=generator)}
    return inputs | {s.name: torch.rand(s.batched(batch), generator=generator) * 2 - 1 for s in points}


def counted(model):
    kinds = [node.op_type for node in model.graph.node]
    return {kind: kinds.count(kind) for kind in sorted(PLUGIN_NODES) if kind in kinds}


def test_the_motion_stage_gives_what_pytorch_gives(seeded_demo, cache):
    stage = STAGES["motion"]
    model = onnx.load_from_string(typed_graph(seeded_demo, stage, FP32, "plugin", cache))
    assert counted(model) == {"MotionInput": 1, "MotionSum": 1, **RESIZES}
    inputs = motion_inputs(seeded_demo.config, batch=2)
    expected = call_stage(stage_module(stage, seeded_demo), tuple(inputs.values()))
    actual = evaluate(model, {name: tensor.numpy() for name, tensor in inputs.items()})
    for old, new in zip(expected, actual, strict=True):
        assert new.shape == old.shape
        assert np.abs(new - old.numpy()).max() < 2e-5


def test_nothing_is_left_of_what_the_operators_replace(seeded_demo, cache):
    wholes = {"FoldDepth": 1, "GridSample3D": 1, "PictureConv": 1, "SpadeNorm": 11, "SpadeNormAdd": 7}
    for name, samplers in (("motion", {}), ("generator", wholes), ("frame", wholes)):
        model = onnx.load_from_string(typed_graph(seeded_demo, STAGES[name], PRECISIONS["fp16-mixed"], "plugin", cache))
        assert counted(model) == {**samplers, "MotionInput": 1, "MotionSum": 1, **RESIZES}
        inside = {n.op_type for n in model.graph.node if n.name.startswith("/dense_motion_network/")}
        assert inside == {"Conv", "Concat", "Relu", "Reshape", "Sigmoid", "MotionInput", "MotionSum", *RESIZES}


def test_no_shape_is_left_to_be_computed(seeded_demo, cache):
    for name in ("motion", "generator"):
        stage = STAGES[name]
        model = onnx.load_from_string(typed_graph(seeded_demo, stage, PRECISIONS["fp16-mixed"], "plugin", cache))
        fix_shapes(model, {spec.name: spec.batched(1) for spec in stage.inputs(seeded_demo.config)})
        assert not {"Shape", "Gather"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("name", ["motion", "generator"])
@pytest.mark.parametrize("precision", ["fp16-mixed", "int8"])
def test_volumes_are_half_and_coordinates_float32(seeded_demo, seeded_calibration, cache, name, precision):
    ranges = seeded_calibration if precision == "int8" else None
    model = onnx.load_from_string(
        typed_graph(seeded_demo, STAGES[name], PRECISIONS[precision], "plugin", cache, ranges)
    )
    types = element_types(model)
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    expected = {
        "MotionInput": [half, single, single, half],
        "MotionSum": [half, single, single, single],
        "VolumeResize": [half, half],
        "VolumeJoinDouble": [half, half, half],
        "FoldDepth": [half, half],
        "GridSample3D": [half, single, half],
    }
    for node in model.graph.node:
        if node.op_type in expected:
            assert [types[tensor] for tensor in (*node.input, *node.output)] == expected[node.op_type]
    # Keypoints and deformation pass from door to node as they are.
    cast = {tensor for node in model.graph.node if node.op_type == "Cast" for tensor in (*node.input, *node.output)}
    assert not cast & {"kp_driving", "kp_source", "deformation"}


def test_keypoints_computed_in_the_graph_stay_float32(seeded_demo):
    # As in a graph of a whole frame, where the mapping stage's arithmetic comes before dense motion.
    model = export_stage(seeded_demo, STAGES["motion"])
    constants_to_initializers(model)
    fuse_dense_motion(model)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name == "kp_driving":
                node.input[position] = "posed"
    model.graph.node.insert(0, helper.make_node("Add", ["kp_driving", "kp_source"], ["posed"], name="/pose"))
    assert coordinate_slice(model) == {"/pose"}
    types = element_types(apply_precision(model, PRECISIONS["fp16-mixed"]))
    assert types["posed"] == TensorProto.FLOAT


def test_a_node_named_by_a_plan_keeps_its_name_and_stays_float32(seeded_demo, cache):
    pool = "/dense_motion_network/hourglass/encoder/down_blocks.0/AveragePool"
    plan = replace(PRECISIONS["fp16-mixed"], name="plan", keep_nodes=(pool,))
    model = onnx.load_from_string(typed_graph(seeded_demo, STAGES["motion"], plan, "plugin", cache))
    types = element_types(model)
    resizes = {node.name: types[node.output[0]] for node in model.graph.node if node.op_type == "VolumeResize"}
    assert [name for name, kind in resizes.items() if kind == TensorProto.FLOAT] == [pool]


def test_other_precisions_and_samplers_are_left_alone(tiny, cache):
    for precision in PRECISIONS.values():
        if precision.quantize is not None:
            continue
        for grid_sample in ("plugin", "native"):
            graph = typed_graph(tiny, STAGES["motion"], precision, grid_sample, cache)
            plain = typed_graph(tiny, STAGES["motion"], replace(precision, operators=False), grid_sample, cache)
            assert (graph == plain) == (precision.name != "fp16-mixed" or grid_sample == "native")
    assert [name for name, precision in PRECISIONS.items() if precision.operators] == ["fp16-mixed", "int8", "fp8"]


def test_dense_motion_of_another_form_stays(tiny):
    for change in ("exponent", "axis", "jacobian"):
        model = export_stage(tiny, STAGES["motion"])
        constants_to_initializers(model)
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        by_kind = {kind: [n for n in model.graph.node if n.op_type == kind] for kind in ("Exp", "Softmax", "Add")}
        if change == "exponent":  # The two heat maps differ.
            scale = next(n for n in model.graph.node if by_kind["Exp"][0].input[0] in n.output)
            weights[scale.input[1]].CopyFrom(helper.make_tensor(scale.input[1], TensorProto.FLOAT, [], [-49.0]))
        elif change == "axis":
            by_kind["Softmax"][0].attribute[0].i = 2
        else:  # What is added to the source keypoints is no difference, as it is none with Jacobians.
            moved = by_kind["Add"][0]
            model.graph.node.insert(
                list(model.graph.node).index(moved),
                helper.make_node("Identity", [moved.input[0]], ["rotated"], name="/rotation"),
            )
            moved.input[0] = "rotated"
        before = model.SerializeToString()
        assert not fuse_dense_motion(model)
        assert model.SerializeToString() == before


def resize_graph(operator, inputs, initializers, **attributes):
    node = helper.make_node(operator, inputs, ["y"], name="node", **attributes)
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph([node], "resize", tensors[:1], tensors[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


POOL = {"kernel_shape": [1, 2, 2], "strides": [1, 2, 2], "pads": [0] * 6, "ceil_mode": 0, "count_include_pad": 1}
DOUBLING = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize(
    ("changes", "replaced"),
    [
        ({}, True),
        ({"count_include_pad": 0}, True),
        ({"ceil_mode": 1}, False),
        ({"strides": [1, 1, 1]}, False),
        ({"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}, False),
        ({"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4}, False),
        ({"pads": [0, 1, 1, 0, 1, 1]}, False),
        ({"dilations": [1, 2, 2]}, False),
        ({"auto_pad": "SAME_UPPER"}, False),
    ],
)
def test_only_means_of_two_by_two_are_replaced(changes, replaced):
    model = resize_graph("AveragePool", ["x"], [], **(POOL | changes))
    before = model.SerializeToString()
    assert bool(replace_volume_resizes(model)) == replaced
    assert replaced or model.SerializeToString() == before


@pytest.mark.parametrize(
    ("scales", "changes", "replaced"),
    [
        ([1, 1, 1, 2, 2], {}, True),
        ([1, 1, 2, 2, 2], {}, False),
        ([1, 1, 2, 2], {}, False),
        ([1, 1, 1, 2, 2], {"mode": "linear"}, False),
        ([1, 1, 1, 2, 2], {"nearest_mode": "ceil"}, False),
        ([1, 1, 1, 2, 2], {"coordinate_transformation_mode": "align_corners"}, False),
    ],
)
def test_only_nearest_doubling_is_replaced(scales, changes, replaced):
    constant = helper.make_tensor("scales", TensorProto.FLOAT, [len(scales)], scales)
    model = resize_graph("Resize", ["x", "", "scales"], [constant], **(DOUBLING | changes))
    assert bool(replace_volume_resizes(model)) == replaced


@pytest.mark.parametrize("shape", [(2, 3, 2, 5, 8), (1, 1, 1, 3, 2)])
def test_volumes_are_resized_as_before(shape):
    volume = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    constant = helper.make_tensor("scales", TensorProto.FLOAT, [5], [1, 1, 1, 2, 2])
    for model in (
        resize_graph("AveragePool", ["x"], [], **POOL),
        resize_graph("Resize", ["x", "", "scales"], [constant], **DOUBLING),
    ):
        expected = evaluate(model, {"x": volume})
        assert replace_volume_resizes(model) == {"node"}
        (actual,) = evaluate(model, {"x": volume})
        assert actual.shape == expected[0].shape
        assert np.abs(actual - expected[0]).max() < 1e-6


def joining_graph(more=(), outputs=("y",), axis=1, inputs=("x", "skip")):
    nodes = [
        helper.make_node("Concat", inputs, ["joined"], name="join", axis=axis),
        helper.make_node("Resize", ["joined", "", "scales"], ["y"], name="double", **DOUBLING),
        *more,
    ]
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in (*dict.fromkeys(inputs), *outputs)
    }
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [5], [1, 1, 1, 2, 2])
    made = [tensors.pop(name) for name in outputs]
    graph = helper.make_graph(nodes, "joining", list(tensors.values()), made, [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_volumes_are_joined_as_they_are_doubled():
    model = joining_graph()
    generator = np.random.default_rng(4)
    volumes = {
        name: generator.standard_normal((2, channels, 2, 3, 4)).astype(np.float32)
        for name, channels in (("x", 3), ("skip", 5))
    }
    (expected,) = evaluate(model, volumes)
    assert replace_volume_resizes(model) == {"double"}
    assert [(node.op_type, node.name) for node in model.graph.node] == [("VolumeJoinDouble", "double")]
    (actual,) = evaluate(model, volumes)
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"axis": 2},
        {"inputs": ("x", "skip", "third")},
        {"outputs": ("y", "joined")},
        {"more": (helper.make_node("Relu", ["joined"], ["z"], name="other"),), "outputs": ("y", "z")},
    ],
)
def test_what_others_read_or_joins_otherwise_is_doubled_by_itself(changes):
    model = joining_graph(**changes)
    assert replace_volume_resizes(model) == {"double"}
    assert [node.op_type for node in model.graph.node][:2] == ["Concat", "VolumeResize"]
