"""Graphs with dense motion as nodes of the plugin, its volumes maps."""

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
from sadtrt_core.graph.fold_depth import fold_depth
from sadtrt_core.graph.plugin_nodes import PLUGIN_NODES
from sadtrt_core.graph.typed import apply_precision, coordinate_slice
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES, call_stage, stage_module

#: The hourglass's five blocks that halve, its last convolution and the mask; five blocks that double and join a skip.
SUMS = {"FoldDepth": 1, "SplitSum": 7, "SplitSumJoin": 5}
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
    assert counted(model) == {"MotionInput": 1, "MotionSum": 1, **SUMS}
    inputs = motion_inputs(seeded_demo.config, batch=2)
    expected = call_stage(stage_module(stage, seeded_demo), tuple(inputs.values()))
    actual = evaluate(model, {name: tensor.numpy() for name, tensor in inputs.items()})
    for old, new in zip(expected, actual, strict=True):
        assert new.shape == old.shape
        assert np.abs(new - old.numpy()).max() < 2e-5


def test_nothing_is_left_of_what_the_operators_replace(seeded_demo, cache):
    # The occlusion's long sum, and the decoder's maps that modulate upsampled ones, three in each of two blocks.
    motion = {**SUMS, "SplitSum": 8}
    wholes = {
        **SUMS,
        "FoldDepth": 2,
        "GridSample3D": 1,
        "PictureConv": 1,
        "SpadeNorm": 11,
        "SpadeNormAdd": 7,
        "SplitSum": 14,
    }
    for name, nodes in (("motion", motion), ("generator", wholes), ("frame", wholes)):
        model = onnx.load_from_string(typed_graph(seeded_demo, STAGES[name], PRECISIONS["fp16-mixed"], "plugin", cache))
        assert counted(model) == {**nodes, "MotionInput": 1, "MotionSum": 1}
        inside = {n.op_type for n in model.graph.node if n.name.startswith("/dense_motion_network/")}
        assert inside == {"Conv", "Relu", "Resize", "Sigmoid", "MotionInput", "MotionSum", *SUMS}
        # Maps of 2 x 2 alone are upsampled before their convolution: by phases it would not be fewer products.
        sums = {n.name: {item.name: item.i for item in n.attribute} for n in model.graph.node if n.op_type in SUMS}
        block = "/dense_motion_network/hourglass/decoder/up_blocks"
        assert ["scale" in sums[f"{block}.{i}/conv/Conv/parts"] for i in range(5)] == [False] + [True] * 4


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
        "SplitSum": [half, single, half],
        "SplitSumJoin": [half, single, half, half],
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
    fold_depth(model)
    assert fuse_dense_motion(model)
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
    pools = {node.name: types[node.output[0]] for node in model.graph.node if node.op_type == "AveragePool"}
    assert pools == {pool: TensorProto.FLOAT}


def test_a_convolution_named_by_a_plan_is_summed_in_float32_too(seeded_demo, cache):
    block = "/dense_motion_network/hourglass/decoder/up_blocks.1"
    plan = replace(PRECISIONS["fp16-mixed"], name="plan", keep_nodes=(f"{block}/conv/Conv",))
    model = onnx.load_from_string(typed_graph(seeded_demo, STAGES["motion"], plan, "plugin", cache))
    types = element_types(model)
    own = {node.name: types[node.output[0]] for node in model.graph.node if node.name.startswith(f"{block}/")}
    single, half = TensorProto.FLOAT, TensorProto.FLOAT16
    # The activation is half as the plan has it, so it is no part of the sum.
    assert own == {f"{block}/conv/Conv": single, f"{block}/conv/Conv/parts": single, f"{block}/Relu": half}


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
    for change in ("exponent", "axis", "jacobian", "stride"):
        model = export_stage(tiny, STAGES["motion"])
        constants_to_initializers(model)
        fold_depth(model)
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        by_kind = {kind: [n for n in model.graph.node if n.op_type == kind] for kind in ("Exp", "Softmax", "Add")}
        if change == "exponent":  # The two heat maps differ.
            scale = next(n for n in model.graph.node if by_kind["Exp"][0].input[0] in n.output)
            weights[scale.input[1]].CopyFrom(helper.make_tensor(scale.input[1], TensorProto.FLOAT, [], [-49.0]))
        elif change == "axis":
            by_kind["Softmax"][0].attribute[0].i = 2
        elif change == "stride":  # A volume's convolution that is none in the plane.
            mask = next(n for n in model.graph.node if n.name == "/dense_motion_network/mask/Conv")
            next(item for item in mask.attribute if item.name == "pads").ints[0] = 2
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
