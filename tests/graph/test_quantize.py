"""Quantized graphs: where the pairs sit, what they compute, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from sadtrt_core.accuracy.torch_graph import run_graph
from sadtrt_core.errors import UserError
from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.export import export_stage, typed_graph
from sadtrt_core.graph.rounding import cpu_session, explicit_rounding
from sadtrt_core.graph.typed import apply_precision, quantized_nodes
from sadtrt_core.precision import PRECISIONS, Precision, Quantization
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES

#: More than the built-in int8 quantizes: convolutions that share what they read, and activations in between.
INT8 = dataclasses.replace(
    PRECISIONS["int8"], quantize=Quantization("int8", ("/decoder/*",), ("/decoder/up_?/conv_?/*",))
)


@pytest.fixture(scope="module")
def decode(seeded_demo):
    return export_stage(seeded_demo, STAGES["decode"])


@pytest.fixture
def calibration(seeded_calibration):
    return seeded_calibration


def producers(model):
    return {name: node for node in model.graph.node for name in node.output}


def test_pairs_sit_before_the_operands_of_the_declared_convolutions_and_nowhere_else(decode, calibration):
    typed = apply_precision(decode, INT8, calibration)
    types, made = element_types(typed), producers(typed)
    weights = {tensor.name: tensor for tensor in typed.graph.initializer}
    declared = quantized_nodes(decode, INT8)
    assert "/decoder/G_middle_0/conv_0/Conv" in declared
    assert "/decoder/conv_img/Conv" not in declared
    pairs = 0
    for node in typed.graph.node:
        if node.op_type != "Conv":
            continue
        behind = [made[name].op_type if name in made else "constant" for name in node.input[:2]]
        if node.name not in declared:
            assert "DequantizeLinear" not in behind
            continue
        assert behind == ["DequantizeLinear"] * 2
        assert types[node.output[0]] == TensorProto.FLOAT
        for name in node.input[:2]:
            pairs += 1
            back = made[name]
            assert made[back.input[0]].op_type == "QuantizeLinear"
            assert list(made[back.input[0]].input[1:]) == list(back.input[1:]), "both of a pair share scale and zero"
            assert types[back.input[2]] == TensorProto.INT8
            assert not numpy_helper.to_array(weights[back.input[2]]).any()
        scale = numpy_helper.to_array(weights[made[node.input[1]].input[1]])
        channels = numpy_helper.to_array(weights[made[made[node.input[1]].input[0]].input[0]])
        assert scale == pytest.approx(np.abs(channels).reshape(len(channels), -1).max(1) / 127)
        assert numpy_helper.to_array(weights[made[node.input[0]].input[1]]) == np.float32(4 / 127)
        assert node.input[2] in weights, "a bias is not quantized"
    assert pairs == 2 * len(declared) == sum(node.op_type == "DequantizeLinear" for node in typed.graph.node)


def test_a_tensor_that_several_convolutions_read_is_quantized_once(decode, calibration):
    typed = apply_precision(decode, INT8, calibration)
    read = [node.input[0] for node in typed.graph.node if node.op_type == "QuantizeLinear"]
    assert len(read) == len(set(read))


def test_the_generator_and_its_parts_quantize_the_same(seeded_demo, calibration, tmp_path):
    def scales(stage):
        model = onnx.load_from_string(typed_graph(seeded_demo, STAGES[stage], INT8, "plugin", tmp_path, calibration))
        made = producers(model)
        convolutions = (node for node in model.graph.node if node.op_type == "Conv")
        return {node.name for node in convolutions if made.get(node.input[0], node).op_type == "DequantizeLinear"}

    parts = [scales(stage) for stage in GENERATOR_PARTS]
    assert set().union(*parts) == scales("generator")
    assert sum(len(part) for part in parts) == len(scales("generator"))
    assert scales("keypoints") == set()


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_graphs_are_valid_onnx(seeded_demo, calibration, tmp_path, precision):
    for grid_sample in ("native", "builtin"):
        how = PRECISIONS[precision]
        graph = typed_graph(seeded_demo, STAGES["motion"], how, grid_sample, tmp_path, calibration)
        onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)


def _int8(value, scale):
    return (value / scale).round().clamp(-128, 127) * scale


def _fp8(value, scale):
    return (value / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


@pytest.mark.parametrize(("kind", "largest", "rounded"), [("int8", 127, _int8), ("fp8", 448, _fp8)])
def test_quantized_values_are_those_of_the_definition(decode, calibration, kind, largest, rounded):
    """One convolution alone, everything else fp32: ONNX Runtime and PyTorch against rounding its operands by hand."""
    name = "/decoder/fc/Conv"
    how = Precision("alone", "float32", "a test", quantize=Quantization(kind, (name,)))
    typed = explicit_rounding(apply_precision(decode, how, calibration))
    cut = onnx.ModelProto()
    cut.CopyFrom(typed)
    convolution = next(node for node in cut.graph.node if node.name == name)
    del cut.graph.output[:]
    cut.graph.output.append(onnx.helper.make_tensor_value_info(convolution.output[0], TensorProto.FLOAT, None))
    original = next(node for node in decode.graph.node if node.name == name)
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in decode.graph.initializer}
    weight, bias = (weights[original.input[i]] for i in (1, 2))
    x = torch.randn(1, weight.shape[1], 64, 64, generator=torch.Generator().manual_seed(0)) * 2

    per_channel = (weight.abs().flatten(1).amax(1) / largest).reshape(-1, 1, 1, 1)
    expected = torch.conv2d(rounded(x, np.float32(4 / largest)), rounded(weight, per_channel), bias, padding=1)
    found = cpu_session(cut).run(None, {"feature_map": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        run_graph(cut, {"feature_map": x})[cut.graph.output[0].name], expected, atol=1e-4, rtol=1e-5
    )


def test_a_channel_of_zeros_or_of_next_to_nothing_stays_finite(decode, calibration):
    model = onnx.ModelProto()
    model.CopyFrom(decode)
    name = next(node.input[1] for node in model.graph.node if node.name == "/decoder/fc/Conv")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[0], values[1], values[2] = 0.0, 1e-44, -values[2]
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    typed = apply_precision(model, INT8, calibration)
    made = producers(typed)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed.graph.initializer}
    fc = next(node for node in typed.graph.node if node.name == "/decoder/fc/Conv")
    scale = constants[made[fc.input[1]].input[1]]
    assert scale[:2].tolist() == [1.0, 1.0]
    assert (scale > 0).all()
    assert scale[2] == pytest.approx(np.abs(values[2]).max() / 127)
    frame = cpu_session(explicit_rounding(typed)).run(None, {"feature_map": np.ones((1, 32, 64, 64), np.float32)})[0]
    assert np.isfinite(frame).all()


def test_kept_nodes_are_not_quantized(decode):
    kept = dataclasses.replace(INT8, keep_nodes=("/decoder/G_middle_0/*",))
    names = quantized_nodes(decode, kept)
    assert names == {n for n in quantized_nodes(decode, INT8) if not n.startswith("/decoder/G_middle_0/")}


def test_missing_and_foreign_ranges_are_refused_in_one_sentence(seeded_demo, decode, calibration, tmp_path):
    with pytest.raises(UserError, match=r"'int8' quantizes \d+ convolutions here and needs their ranges"):
        apply_precision(decode, INT8)
    foreign = dataclasses.replace(calibration, weights="f" * 64)
    with pytest.raises(
        UserError, match=f"made with the weights ffffffffffff, not with {seeded_demo.weights.digest[:12]}"
    ):
        typed_graph(seeded_demo, STAGES["decode"], INT8, "native", tmp_path, foreign)
    other = dataclasses.replace(calibration, ranges={"/other/Conv": 1.0})
    with pytest.raises(UserError, match=r"no range for /decoder/.*: it was made for another network"):
        apply_precision(decode, INT8, other)


def test_other_ranges_are_another_graph(seeded_demo, calibration, tmp_path):
    """What the engine cache's key hangs on."""

    def graph(ranges):
        made = dataclasses.replace(calibration, ranges=ranges)
        return typed_graph(seeded_demo, STAGES["decode"], INT8, "native", tmp_path, made)

    wider = {name: 4.0 if "fc" not in name else 5.0 for name in calibration.ranges}
    assert graph(calibration.ranges) == graph(dict(calibration.ranges))
    assert graph(calibration.ranges) != graph(wider)
