"""How TensorRT 8.6 is given a quantized graph: the convolutions free, everything else pinned."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto

from sadtrt_core.engine.constraints import (
    arithmetic_types,
    free_tensors,
    half_results,
    is_quantized,
    kept_names,
    layer_types,
)
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.fixed_shapes import fix_shapes
from sadtrt_core.graph.instance_norm import decompose_instance_norm
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.precision import PRECISIONS, Quantization
from sadtrt_core.renderer.stages import STAGES

#: More than the built-in int8 quantizes: convolutions that share what they read, and activations in between.
INT8 = replace(PRECISIONS["int8"], quantize=Quantization("int8", ("/decoder/*",), ("/decoder/up_?/conv_?/*",)))
NORM = "/decoder/G_middle_0/norm_0"


@pytest.fixture(scope="module")
def graph(seeded_demo) -> onnx.ModelProto:
    return export_stage(seeded_demo, STAGES["decode"])


@pytest.fixture(scope="module")
def typed(seeded_demo, seeded_calibration, graph) -> onnx.ModelProto:
    """The decoder in int8 as `build_engine` hands it to 8.6."""
    model = apply_precision(graph, INT8, seeded_calibration)
    fix_shapes(model, {spec.name: spec.batched(1) for spec in STAGES["decode"].inputs(seeded_demo.config)})
    decompose_instance_norm(model)
    return model


def outputs_of(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.output[0] for node in model.graph.node}


def test_quantized_convolutions_and_their_activations_are_left_to_the_builder(typed):
    declared, types = arithmetic_types(typed), layer_types(typed)
    assert {name for name in types if types[name] != declared[name]} == free_tensors(typed)
    made = outputs_of(typed)
    shared, relu = made[f"{NORM}/mlp_shared/mlp_shared.0/Conv"], made[f"{NORM}/mlp_shared/mlp_shared.1/Relu"]
    assert types[shared] is None
    assert types[relu] is None, "an activation between a convolution and the next quantization"
    assert declared[relu] == TensorProto.FLOAT16
    assert {types[name] for node, name in made.items() if "quantizelinear" in node.casefold()} <= {None}
    assert types[made["/decoder/conv_img/Conv"]] == TensorProto.FLOAT, "the picture is kept"
    assert types[made["/decoder/LeakyRelu"]] == TensorProto.FLOAT16
    assert types[made["/decoder/fc/Conv"]] is None
    assert types[made["/decoder/G_middle_0/LeakyRelu"]] == TensorProto.FLOAT16, "what is quantized stays half itself"
    assert types["prediction"] == TensorProto.FLOAT, "the picture is kept"


def test_sums_that_are_cast_to_half_may_be_rounded_by_the_epilogue(typed, graph):
    made = outputs_of(typed)
    in_half = half_results(typed)
    assert made["/decoder/G_middle_0/conv_0/Conv"] in in_half
    assert made["/decoder/fc/Conv"] in in_half
    # What is kept in float32, and what no operand of eight bits has, is none of these.
    assert made["/decoder/conv_img/Conv"] not in in_half
    assert not {made[name] for name in made if "/up_1/conv_" in name} & in_half
    assert half_results(apply_precision(graph, PRECISIONS["fp16-mixed"])) == frozenset()


def test_free_tensors_are_not_counted_as_kept_in_float32(typed):
    assert not kept_names(typed) & free_tensors(typed)


def test_a_graph_without_quantization_leaves_nothing_free(graph):
    mixed = apply_precision(graph, PRECISIONS["fp16-mixed"])
    assert not is_quantized(mixed)
    assert layer_types(mixed) == arithmetic_types(mixed)
