"""Convolutions of upsampled maps: the rewritten graph computes what PyTorch computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from plugin_operators import evaluate

from sadtrt_core.graph.edit import constants_to_initializers, element_types
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.fold_depth import tensor_shapes
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.graph.upsampled import convolve_before_upsampling, phase_kernel
from sadtrt_core.plan import Plan
from sadtrt_core.renderer.stages import STAGES, call_stage, stage_module

SHARED = [
    f"/decoder/{block}/{norm}/mlp_shared/mlp_shared.0/Conv"
    for block in ("up_0", "up_1")
    for norm in ("norm_0", "norm_1", "norm_s")
]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_every_phase_is_a_convolution_of_the_map_itself(factor):
    random = torch.Generator().manual_seed(factor)
    x = torch.randn(2, 5, 7, 6, generator=random, dtype=torch.float64)
    weights = torch.randn(4, 5, 3, 3, generator=random, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=factor, mode="nearest"), weights, padding=1)
    kernel = torch.from_numpy(phase_kernel(weights.numpy(), factor))
    phases = min(factor, 3)
    assert kernel.shape == (phases * phases * 4, 5, 2, 2)
    found = F.conv2d(x, kernel, padding=1).unflatten(1, (phases, phases, 4))
    for down, across in np.ndindex(factor, factor):
        # The last pixel of a value is computed one window further.
        row, column = (int(place == factor - 1) for place in (down, across))
        p, q = (phases - 1 if place == factor - 1 else min(place, 1) for place in (down, across))
        own = found[:, p, q, :, row : row + 7, column : column + 6]
        torch.testing.assert_close(own, expected[:, :, down::factor, across::factor])


def test_the_decoder_convolves_its_maps_before_they_are_upsampled(seeded_demo):
    stage = STAGES["decode"]
    model = export_stage(seeded_demo, stage)
    constants_to_initializers(model)
    inputs = {spec.name: torch.randn(spec.batched(1)) for spec in stage.inputs(seeded_demo.config)}
    (before,) = call_stage(stage_module(stage, seeded_demo), tuple(inputs.values()))
    convolve_before_upsampling(model, tensor_shapes(model))
    (after,) = evaluate(model, {name: tensor.numpy() for name, tensor in inputs.items()})
    sums = sorted(node.name for node in model.graph.node if node.op_type == "SplitSum")
    assert sums == [f"{name}/parts" for name in SHARED]
    # What no convolution of a map reads any more is not upsampled; the two others are of the picture's features.
    assert sum(node.op_type == "Resize" for node in model.graph.node) == 2
    assert np.abs(after - before.numpy()).max() < 2e-5


def test_named_convolutions_keep_their_upsampled_maps(tiny):
    model = export_stage(tiny, STAGES["decode"])
    constants_to_initializers(model)
    convolve_before_upsampling(model, tensor_shapes(model), excluded={SHARED[0]})
    assert sorted(node.name for node in model.graph.node if node.op_type == "SplitSum") == [
        f"{name}/parts" for name in SHARED[1:]
    ]


@pytest.mark.parametrize(("outputs", "left"), [(8, 1), (16, 1), (3, 3)])
def test_convolutions_of_one_map_are_merged_where_each_begins_at_a_vector(outputs, left):
    random = np.random.default_rng(6)
    nodes, constants = [], [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")]
    for before, after in (("x", "doubled"), ("doubled", "upsampled")):
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        nodes.append(helper.make_node("Resize", [before, "", "scales"], [after], name=f"/{after}", **how))
    for name in "abc":
        weights = random.integers(-3, 4, (outputs, 4, 3, 3)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"{name}.weight"))
        how = {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1}
        nodes.append(helper.make_node("Conv", ["upsampled", f"{name}.weight"], [name], name=f"/{name}", **how))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 6])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "abc"]
    graph = helper.make_graph(nodes, "merged", [given], made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = random.integers(-3, 4, (1, 4, 5, 6)).astype(np.float32)
    expected = evaluate(model, {"x": x})
    convolve_before_upsampling(model, tensor_shapes(model))
    assert [node.op_type for node in model.graph.node].count("Conv") == left
    # Whole numbers: nothing is rounded.
    for old, new in zip(expected, evaluate(model, {"x": x}), strict=True):
        assert np.array_equal(old, new)


def test_what_is_kept_in_fp32_is_not_merged_with_what_is_not(tiny):
    precision = replace(Plan("mine", "float16", "a test").precision, keep_nodes=(SHARED[1],))
    typed = apply_precision(export_stage(tiny, STAGES["decode"]), precision, has_plugin=True)
    outputs = {node.name: node.output[0] for node in typed.graph.node}
    read = {node.name: node.input[0] for node in typed.graph.node if node.op_type == "SplitSum"}
    assert read[f"{SHARED[1]}/parts"] == outputs[SHARED[1]]
    assert read[f"{SHARED[0]}/parts"] == read[f"{SHARED[2]}/parts"] != outputs[SHARED[1]]
    types = element_types(typed)
    assert types[outputs[SHARED[1]]] == TensorProto.FLOAT
    assert types[read[f"{SHARED[0]}/parts"]] == TensorProto.FLOAT16


@pytest.mark.parametrize("base", ["float16", "bfloat16"])
def test_plans_on_either_type_convolve_first(tiny, base):
    precision = Plan("mine", base, "a test").precision
    typed = apply_precision(export_stage(tiny, STAGES["decode"]), precision, has_plugin=True)
    sums = [node for node in typed.graph.node if node.op_type == "SplitSum"]
    assert len(sums) == len(SHARED)
    # With the ReLU behind it.
    assert all({item.name: item.f for item in node.attribute}["slope"] == 0 for node in sums)
    assert not any(n.name.startswith("/decoder/up_") for n in typed.graph.node if n.op_type == "Relu")
