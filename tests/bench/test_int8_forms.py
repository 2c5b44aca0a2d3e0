"""The int8 experiment's forms: they change what they say and nothing else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from sadtrt_core.accuracy.simulate import make_session
from sadtrt_core.engine.constraints import layer_types
from sadtrt_core.engine.fixed_shapes import fix_shapes
from sadtrt_core.graph.edit import element_types
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.instance_norm import decompose_instance_norm
from sadtrt_core.graph.typed import apply_precision, quantized_nodes
from sadtrt_core.precision import PRECISIONS, Quantization
from sadtrt_core.renderer.stages import STAGES

ROOT = Path(__file__).parents[2]
#: Wide, so that convolutions share what they read.
INT8 = replace(
    PRECISIONS["int8"],
    quantize=Quantization("int8", ("/decoder/*",), ("/decoder/up_?/conv_?/*", "/decoder/up_1/norm_[1s]/mlp_shared/*")),
)


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), *sys.path])


@pytest.fixture(scope="module")
def graph(seeded_demo) -> onnx.ModelProto:
    return export_stage(seeded_demo, STAGES["decode"])


@pytest.fixture
def typed(seeded_demo, seeded_calibration, graph) -> onnx.ModelProto:
    model = apply_precision(graph, INT8, seeded_calibration)
    fix_shapes(model, {spec.name: spec.batched(1) for spec in STAGES["decode"].inputs(seeded_demo.config)})
    return model


def computed(model) -> dict[str, np.ndarray]:
    inputs = {"feature_map": torch.randn(1, 32, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()}
    session = make_session(model)
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


def test_equal_scales_give_siblings_their_largest_range_and_leave_the_others(graph, seeded_calibration):
    from int8_forms import equal_ranges

    own = {name: 1.0 + index / 64 for index, name in enumerate(sorted(seeded_calibration.ranges))}
    found = equal_ranges(graph, quantized_nodes(graph, INT8), replace(seeded_calibration, ranges=own)).ranges
    middle = [
        f"/decoder/G_middle_{block}/norm_{norm}/mlp_{which}/Conv"
        for block in range(6)
        for norm in (0, 1)
        for which in ("gamma", "beta")
    ]
    assert {found[name] for name in middle} == {max(own[name] for name in middle)}
    assert found["/decoder/up_0/norm_s/mlp_beta/Conv"] == found["/decoder/up_0/norm_0/mlp_gamma/Conv"]
    for name in ("/decoder/G_middle_0/conv_0/Conv", "/decoder/up_1/norm_s/mlp_gamma/Conv", "/decoder/fc/Conv"):
        assert found[name] == own[name]


def test_shown_blocks_are_float32_outputs_of_what_stays_half(typed):
    from int8_blocks import block_tensors, output_name, show_blocks

    plain, blocks = computed(typed), block_tensors(typed)
    middle = ["G_middle_0/conv_0", *(f"G_middle_{i}" for i in range(6))]
    assert [name.removeprefix("/decoder/") for name in blocks] == ["fc", *middle, "up_0", "up_1"]
    decompose_instance_norm(typed)
    show_blocks(typed)
    types = layer_types(typed)
    onnx.checker.check_model(typed, full_check=True)
    assert {types[output_name(block)] for block in blocks} == {TensorProto.FLOAT}
    assert types[blocks["/decoder/up_0"]] == TensorProto.FLOAT16
    kinds = element_types(typed)
    assert {kinds[one.name] for one in typed.graph.output} == {TensorProto.FLOAT}
    shown = computed(typed)
    assert shown[output_name("/decoder/up_1")].shape[2:] == (256, 256)
    np.testing.assert_allclose(shown["prediction"], plain["prediction"], atol=0.05)


def test_signal_over_noise_is_in_decibel_and_infinite_without_noise():
    from int8_blocks import block_lines, signal_to_noise_db

    signal = torch.full((4,), 10.0)
    assert signal_to_noise_db(signal, signal + 0.1) == pytest.approx(40, abs=1e-3)
    assert signal_to_noise_db(signal, signal) == float("inf")
    assert block_lines({"/decoder/up_0": 30.04}, {"/decoder/up_0": 50.0})[0].endswith("up_0 30.0 (50.0)")


def test_forms_quantize_what_they_say_and_are_built_from_graphs_of_their_own(seeded_demo, seeded_calibration, tmp_path):
    from int8_forms import FORMS, REFERENCE, convolution_names, form_graph

    assert next(iter(FORMS)) == REFERENCE
    suite = SimpleNamespace(
        renderer=seeded_demo, calibration=seeded_calibration, options=SimpleNamespace(cache=tmp_path)
    )
    counts = {name: len(convolution_names(suite, form)[1]) for name, form in FORMS.items()}
    assert counts[REFERENCE] == 0
    assert (counts["one convolution"], counts["int8"]) == (1, 12)
    assert 12 < counts["up_1 spared, equal scales"] < counts["wide"] < counts["everything"]
    # The fixture's ranges are all alike already.
    graphs = {name: form_graph(suite, form, "native") for name, form in FORMS.items() if name != "wide, equal scales"}
    assert len(set(graphs.values())) == len(graphs)


def test_without_a_gpu_the_experiment_says_what_it_can_do(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    import int8_groups

    monkeypatch.setattr(sys, "argv", ["int8_groups.py"])
    assert int8_groups.main() == 2
    assert "--dry-run" in capsys.readouterr().out
