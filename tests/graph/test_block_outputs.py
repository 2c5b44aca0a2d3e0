"""Outputs of blocks: the same tensors in the graph with operators and in its simulation, and a fault named first."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from block_outputs import block_tensors, first_parting, kernels_of, output_of, seen_by, with_outputs
from onnx import helper

from sadtrt_core.accuracy.torch_graph import rounded_graph, run_graph
from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.rounding import cpu_session
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES

MIXED = PRECISIONS["fp16-mixed"]


def test_blocks_of_the_fused_graph_are_outputs_that_the_simulation_has_too(tiny: Renderer) -> None:
    exported = export_stage(tiny, STAGES["decode"])
    fused = apply_precision(exported, MIXED, has_plugin=True)
    inputs = {spec.name: torch.randn(spec.batched(1)) for spec in STAGES["decode"].inputs(tiny.config)}
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    simulated, constants = rounded_graph(apply_precision(exported, MIXED), shapes, torch.device("cpu"))
    blocks = block_tensors(fused, simulated)
    assert list(blocks)[:2] == ["/decoder/fc", "/decoder/G_middle_0"]
    assert {f"/decoder/G_middle_{number}" for number in range(6)} | {"/decoder/up_0", "/decoder/up_1"} <= set(blocks)
    model = with_outputs(fused, blocks)
    types = element_types(model)
    assert {types[value.name] for value in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert {value.name for value in model.graph.output} == {"prediction", *map(output_of, blocks)}

    types_values: dict[str, torch.Tensor] = {}
    run_graph(simulated, {**inputs, **constants}, seen_by(blocks, types_values))  # type: ignore[arg-type]
    assert set(types_values) == set(blocks)
    exact, constants = rounded_graph(apply_precision(exported, PRECISIONS["fp32"]), shapes, torch.device("cpu"))
    exact_values: dict[str, torch.Tensor] = {}
    run_graph(exact, {**inputs, **constants}, seen_by(blocks, exact_values))  # type: ignore[arg-type]
    ordered = {block: exact_values[block] for block in blocks}
    assert first_parting(ordered, types_values, types_values)[0] is None
    faulty = {
        block: value if block in list(blocks)[:4] else value + 0.1 * value.std()
        for block, value in types_values.items()
    }
    parted, lines = first_parting(ordered, types_values, faulty)
    assert parted == list(blocks)[4]
    assert len(lines) == len(blocks)
    layers: list[object] = [
        "a name",
        {"Name": "conv", "TacticName": "sm90_x", "Outputs": [{"Name": f"{parted}/conv_1/Conv_output_0"}]},
        {"Name": "other", "Outputs": [{"Name": "/decoder/fc/Conv_output_0"}]},
    ]
    assert kernels_of(layers, str(parted)) == ["conv (sm90_x)"]
    folded = {**types_values, list(blocks)[4]: types_values[list(blocks)[4]].flatten()}
    parted, lines = first_parting(ordered, types_values, folded)
    assert parted is None
    assert [line for line in lines if "not compared" in line] == [lines[4]]


def test_a_tensor_of_no_module_is_an_output_beside_itself() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["/Neg_output_0"]), helper.make_node("Abs", ["/Neg_output_0"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    blocks = block_tensors(graph, graph)
    assert blocks == {"/Neg_output_0": "/Neg_output_0"}
    given = {"x": np.float32([2])}
    assert cpu_session(with_outputs(graph, blocks)).run(None, given) == [np.float32([2]), np.float32([-2])]


def test_what_moves_values_is_not_compared() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["/Neg_output_0"]),
        helper.make_node("Transpose", ["/Neg_output_0"], ["/Transpose_output_0"]),
        helper.make_node("Abs", ["/Transpose_output_0"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in "xy")
    graph = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)])
    assert list(block_tensors(graph, graph)) == ["/Neg_output_0"]
