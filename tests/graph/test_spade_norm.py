"""SPADE norms as nodes of our own: the same decoder, exact merged weights, and everything else left alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from plugin_operators import evaluate

from sadtrt_core.graph.edit import constants_to_initializers, element_types
from sadtrt_core.graph.export import export_stage, typed_graph
from sadtrt_core.graph.plugin_nodes import INT8_NORMS, SPADE_NORM, SPADE_NORM_ADD
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.graph.spade_norm import fuse_spade_norms
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.plan import Keep, Plan
from sadtrt_core.precision import PRECISIONS, Precision, Quantization
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, call_stage, stage_module

NORMS = 18


def _spade_norm(x: np.ndarray, modulation: np.ndarray, epsilon: float, slope: float, upsample: int) -> np.ndarray:
    x = x.repeat(upsample, 2).repeat(upsample, 3)
    gamma, beta = torch.from_numpy(modulation).chunk(2, 1)
    y = torch.nn.functional.instance_norm(torch.from_numpy(x).float(), eps=epsilon) * (1 + gamma.float()) + beta
    return torch.nn.functional.leaky_relu(y, slope).numpy().astype(x.dtype)


class SpadeNorm(OpRun):
    op_domain = ""

    def _run(
        self, x: Any, modulation: Any, epsilon: float, slope: float, plugin_version: str, upsample: int = 1
    ) -> tuple[Any]:
        return (_spade_norm(x, modulation, epsilon, slope, upsample),)


class SpadeNormAdd(OpRun):
    op_domain = ""

    def _run(
        self,
        x: Any,
        residual: Any,
        modulation: Any,
        epsilon: float,
        slope: float,
        plugin_version: str,
        upsample: int = 1,
    ) -> tuple[Any, Any]:
        return x + residual, _spade_norm(x + residual, modulation, epsilon, slope, upsample)


def _quantized(y: np.ndarray, scale: float) -> np.ndarray:
    steps = np.rint(y.astype(np.float32) / np.float32(scale))
    return np.clip(steps, -128, 127).astype(np.int8)


class SpadeNormInt8(OpRun):
    op_domain = ""

    def _run(self, x: Any, modulation: Any, scale: float, **others: Any) -> tuple[Any]:
        upsample = others.get("upsample", 1)
        return (_quantized(_spade_norm(x, modulation, others["epsilon"], others["slope"], upsample), scale),)


class SpadeNormAddInt8(OpRun):
    op_domain = ""

    def _run(self, x: Any, residual: Any, modulation: Any, scale: float, **others: Any) -> tuple[Any, Any]:
        upsample = others.get("upsample", 1)
        y = _spade_norm(x + residual, modulation, others["epsilon"], others["slope"], upsample)
        return x + residual, _quantized(y, scale)


def decode_graph(renderer: Renderer) -> onnx.ModelProto:
    model = export_stage(renderer, STAGES["decode"])
    constants_to_initializers(model)
    return model


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def test_the_decoder_computes_the_same_frames(seeded_demo: Renderer) -> None:
    model = decode_graph(seeded_demo)
    before = operators(model)
    assert fuse_spade_norms(model) == frozenset()
    after = operators(model)
    # The sums of five middle blocks are normalised next; the sixth's and up_0's are resized first.
    assert (after[SPADE_NORM], after[SPADE_NORM_ADD]) == (NORMS - 7, 7)
    assert after["InstanceNormalization"] == after["Mul"] == 0
    assert before["Conv"] - after["Conv"] == NORMS
    stage = STAGES["decode"]
    inputs = {spec.name: torch.randn(spec.batched(1)) for spec in stage.inputs(seeded_demo.config)}
    (expected,) = call_stage(stage_module(stage, seeded_demo), tuple(inputs.values()))
    evaluator = ReferenceEvaluator(model, new_ops=[SpadeNorm, SpadeNormAdd])
    (actual,) = evaluator.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    assert expected.std() > 0.01
    np.testing.assert_allclose(actual, expected.numpy(), atol=2e-5)


def test_merged_convolutions_have_the_weights_of_both(tiny: Renderer) -> None:
    original, model = decode_graph(tiny), decode_graph(tiny)
    fuse_spade_norms(model)
    old, new = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (original, model))
    merged = [name for name in by_name(model) if name.endswith("/mlp_gamma/Conv")]
    assert len(merged) == NORMS
    for name in merged:
        node, gamma = by_name(model)[name], by_name(original)[name]
        beta = by_name(original)[name.replace("gamma", "beta")]
        for position in (1, 2):
            halves = np.split(new[node.input[position]], 2)
            assert np.array_equal(halves[0], old[gamma.input[position]])
            assert np.array_equal(halves[1], old[beta.input[position]])
    # What went into the merged weights does not stay in the graph.
    assert not any("mlp_beta" in name for name in new)


def test_slopes_and_epsilons_are_those_of_the_nodes_replaced(tiny: Renderer) -> None:
    model = decode_graph(tiny)
    fuse_spade_norms(model)
    for name, node in by_name(model).items():
        if node.op_type in (SPADE_NORM, SPADE_NORM_ADD):
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            assert attributes["epsilon"] == np.float32(1e-5)
            assert attributes["slope"] == np.float32(1.0 if "norm_s" in name else 0.2)
            assert attributes["plugin_version"] == b"1"
            assert attributes.get("upsample", 1) == (2 if "/up_" in name and "norm_1" not in name else 1)
    # Those of the maps that modulate are left; what is normalised is upsampled by the operator.
    assert [node.name for node in model.graph.node if node.op_type == "Resize"] == [
        "/decoder/Resize_1",
        "/decoder/Resize_3",
    ]


def test_a_sum_has_one_maker_whoever_else_reads_it(tiny: Renderer) -> None:
    model = decode_graph(tiny)
    fuse_spade_norms(model)
    node = by_name(model)["/decoder/G_middle_2/norm_0/SpadeNorm"]
    assert node.op_type == SPADE_NORM_ADD
    assert node.output[0] == "/decoder/G_middle_1/Add_output_0"
    readers = [other.name for other in model.graph.node if node.output[0] in other.input]
    assert readers == ["/decoder/G_middle_3/norm_0/SpadeNorm"]
    seen = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    for each in model.graph.node:
        assert {name for name in each.input if name} <= seen, f"{each.name} is before what it reads"
        seen.update(each.output)


def test_a_sum_that_the_modulation_depends_on_stays_a_sum(tiny: Renderer) -> None:
    model = decode_graph(tiny)
    nodes = by_name(model)
    shared = nodes["/decoder/G_middle_1/norm_0/mlp_gamma/Conv"].input[0]
    total = nodes["/decoder/G_middle_0/Add"].output[0]
    nodes["/decoder/G_middle_1/norm_0/mlp_shared/mlp_shared.0/Conv"].input[0] = total
    assert shared != total
    fuse_spade_norms(model)
    assert by_name(model)["/decoder/G_middle_1/norm_0/SpadeNorm"].op_type == SPADE_NORM
    assert "/decoder/G_middle_0/Add" in by_name(model)


@pytest.mark.parametrize("name", ["mlp_gamma", "mlp_beta"])
def test_a_modulation_that_something_else_reads_is_left_alone(tiny: Renderer, name: str) -> None:
    model = decode_graph(tiny)
    read = by_name(model)[f"/decoder/up_1/norm_0/{name}/Conv"].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(read, TensorProto.FLOAT, None))
    fuse_spade_norms(model)
    assert "/decoder/up_1/norm_0/SpadeNorm" not in by_name(model)
    # Another norm of the same instance norm is one node all the same.
    assert "/decoder/up_1/norm_s/SpadeNorm" in by_name(model)


def test_a_norm_kept_in_part_stays_and_one_kept_as_a_whole_is_kept(tiny: Renderer) -> None:
    model = decode_graph(tiny)
    kept = {name for name in by_name(model) if name.startswith("/decoder/G_middle_2/")}
    kept.add("/decoder/G_middle_3/norm_1/mlp_beta/Conv")
    new = fuse_spade_norms(model, kept)
    assert new == {f"/decoder/G_middle_2/norm_{number}/SpadeNorm" for number in (0, 1)}
    assert "/decoder/G_middle_3/norm_1/SpadeNorm" not in by_name(model)
    # The sum before it is not kept, that behind it is.
    assert by_name(model)["/decoder/G_middle_2/norm_0/SpadeNorm"].op_type == SPADE_NORM
    assert by_name(model)["/decoder/G_middle_3/norm_0/SpadeNorm"].op_type == SPADE_NORM


def test_half_norms_are_half_on_every_side_and_kept_ones_fp32(tiny: Renderer) -> None:
    plan = Plan("mine", "float16", "a test", (Keep(("/decoder/G_middle_2/*",), "a test"),))
    model = apply_precision(export_stage(tiny, STAGES["decode"]), plan.precision, has_plugin=True)
    types = element_types(model)
    fused = [node for node in model.graph.node if node.op_type in (SPADE_NORM, SPADE_NORM_ADD)]
    assert len(fused) == NORMS
    for node in fused:
        kind = TensorProto.FLOAT if "G_middle_2" in node.name else TensorProto.FLOAT16
        assert {types[name] for name in (*node.input, *node.output)} == {kind}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("grid_sample", ["plugin", "native"])
def test_mixed_precisions_fuse_norms_with_the_plugin_and_no_other_graph_does(
    seeded_demo: Renderer,
    seeded_calibration: Calibration,
    tmp_path_factory: pytest.TempPathFactory,
    precision: str,
    grid_sample: Any,
) -> None:
    cache = tmp_path_factory.getbasetemp() / "fused-graphs"
    ranges = seeded_calibration if PRECISIONS[precision].quantize else None
    content = typed_graph(seeded_demo, STAGES["generator"], PRECISIONS[precision], grid_sample, cache, ranges)
    found = operators(onnx.load_from_string(content))
    fused = grid_sample == "plugin" and precision in ("fp16-mixed", "int8", "fp8")
    in_int8 = sum(found[kind] for kind in INT8_NORMS.values())
    assert in_int8 == (12 if fused and precision == "int8" else 0)
    assert found[SPADE_NORM] + found[SPADE_NORM_ADD] + in_int8 == (NORMS if fused else 0)
    assert (found["InstanceNormalization"] == 0) == fused


def test_quantized_convolutions_read_what_the_norm_wrote(
    seeded_demo: Renderer, seeded_calibration: Calibration
) -> None:
    graph = export_stage(seeded_demo, STAGES["decode"])
    model = apply_precision(graph, PRECISIONS["int8"], seeded_calibration, has_plugin=True)
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    types = element_types(model)
    # No pass quantizes an activation any more: what is left quantizes weights.
    assert not any(node.op_type == "QuantizeLinear" and node.input[0] in made for node in model.graph.node)
    convolutions = [node for name, node in by_name(model).items() if "G_middle" in name and "/conv_" in name]
    convolutions = [node for node in convolutions if node.op_type == "Conv"]
    assert len(convolutions) == 12
    for node in convolutions:
        back = made[node.input[0]]
        norm = made[back.input[0]]
        assert norm.op_type in INT8_NORMS.values()
        assert {item.name: item.f for item in norm.attribute}["scale"] == constants[back.input[1]]
        assert types[norm.output[-1]] == TensorProto.INT8
        # The sum, which is the residual of what follows, stays half.
        assert {types[name] for name in (*norm.input, *norm.output[:-1])} == {TensorProto.FLOAT16}


def test_a_norm_that_writes_int8_computes_the_bits_of_one_that_is_quantized_behind(
    tiny: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = export_stage(tiny, STAGES["decode"])
    ranges = {node.name: 1.5 for node in graph.graph.node if node.op_type == "Conv"}
    calibration = Calibration("a test", (0,), tiny.weights.digest, "workload", "exporter", ranges)
    specs = STAGES["decode"].inputs(tiny.config)
    inputs = {spec.name: np.random.default_rng(0).standard_normal(spec.batched(1), np.float32) for spec in specs}
    found = []
    for _ in range(2):
        model = apply_precision(graph, PRECISIONS["int8"], calibration, has_plugin=True)
        model.opset_import[0].version = 19  # The first whose DequantizeLinear onnx computes.
        norms = [SpadeNorm, SpadeNormAdd, SpadeNormInt8, SpadeNormAddInt8]
        found.append((operators(model)["QuantizeLinear"], *evaluate(model, inputs, norms)))
        monkeypatch.setattr("sadtrt_core.graph.typed.quantize_in_norms", lambda model: None)
    assert found[1][0] - found[0][0] == 12
    assert np.array_equal(found[0][1], found[1][1])
    assert found[0][1].std() > 0.01


def test_modulations_quantized_together_are_merged_and_one_alone_is_not(
    seeded_demo: Renderer, seeded_calibration: Calibration
) -> None:
    graph = export_stage(seeded_demo, STAGES["decode"])

    def fused(*patterns: str) -> dict[str, onnx.NodeProto]:
        how = Precision("mine", "float16", "a test", quantize=Quantization("int8", patterns), operators=True)
        return by_name(apply_precision(graph, how, seeded_calibration, has_plugin=True))

    both = fused("/decoder/up_0/norm_1/mlp_gamma/*", "/decoder/up_0/norm_1/mlp_beta/*")
    assert "/decoder/up_0/norm_1/SpadeNorm" in both
    assert "DequantizeLinear" in both["/decoder/up_0/norm_1/mlp_gamma/Conv"].input[1]
    alone = fused("/decoder/up_0/norm_1/mlp_gamma/*")
    assert "/decoder/up_0/norm_1/SpadeNorm" not in alone
    assert "/decoder/up_0/norm_0/SpadeNorm" in alone
