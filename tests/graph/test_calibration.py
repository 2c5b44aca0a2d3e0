"""Calibrations: measured the same again, kept in the cache, refused when damaged or foreign."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
import torch
from reports import Kept

from sadtrt_core.accuracy.parts import stage_parts
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.errors import UserError
from sadtrt_core.graph.calibrate import calibrated, measured_ranges, read_calibration, spread_frames, write_calibration
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.standin import choose_weights
from sadtrt_core.renderer.workload import frame_inputs, held_out, make_workload

CPU = torch.device("cpu")
MADE = Calibration("minimum and maximum", (0, 4), "w" * 64, "d" * 64, "onnxruntime 1", {"/decoder/fc/Conv": 2.5})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def demo(cache):
    return choose_weights(256, None, None, "demo", has_gpu=False, cache=cache)


@pytest.fixture(scope="module")
def workload(demo):
    return make_workload(demo.config, 4)


def test_ranges_are_the_largest_magnitudes_that_convolutions_read(tiny, cache):
    """Against the inputs themselves, taken out of the graph."""
    workload = make_workload(tiny.config, 3)
    ranges = measured_ranges(tiny, [workload], (0, 2), cache)
    graph = cached_export(tiny, STAGES["generator"], OPSET, cache)
    read = {node.name: node.input[0] for node in graph.graph.node if node.op_type == "Conv"}
    assert set(ranges) == set(read)
    simulator = Simulator(graph, frame_inputs(tiny, workload, STAGES["generator"], CPU))
    inner = sorted({name for name in read.values() if name != "source_image"})
    seen = dict.fromkeys(inner, 0.0)

    def see(name, value):
        if name in seen:
            seen[name] = max(seen[name], float(value.abs().max()))

    simulator.watch((0, 2), see)
    for name, tensor in read.items():
        if tensor in seen and seen[tensor] > 0:
            assert ranges[name] == pytest.approx(seen[tensor], rel=1e-3)


def test_ranges_are_measured_on_frames_that_are_not_rendered(tiny):
    workload = make_workload(tiny.config, 5)
    other = held_out(workload, tiny.config)
    assert other.kp_driving.shape == workload.kp_driving.shape
    assert torch.equal(other.source_image, workload.source_image)
    distances = torch.cdist(other.kp_driving.flatten(1), workload.kp_driving.flatten(1))
    assert distances.min() > 0.05
    # A motion of the same size, relative to a source wherever that is.
    sizes = [(one.kp_driving - one.kp_source).abs().max() for one in (workload, other)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.5)
    moved = dataclasses.replace(workload, kp_source=workload.kp_source + 0.25)
    torch.testing.assert_close(held_out(moved, tiny.config).kp_driving, other.kp_driving + 0.25)


def test_another_portrait_widens_ranges_and_other_methods_narrow_them(tiny, cache, monkeypatch):
    workload = make_workload(tiny.config, 1)
    brighter = dataclasses.replace(workload, source_image=1 - workload.source_image)
    frames = (0,)
    one, other, both = (
        measured_ranges(tiny, given, frames, cache) for given in ([workload], [brighter], [workload, brighter])
    )
    assert both == {name: max(one[name], other[name]) for name in one}
    for method, bins in (("percentile", 512), ("entropy", 256)):
        monkeypatch.setattr("sadtrt_core.graph.calibrate._BINS", bins)  # The least entropy takes their square.
        narrower = measured_ranges(tiny, [workload], frames, cache, method)
        assert all(narrower[name] <= one[name] * 1.001 for name in one)
        assert narrower != one


def test_ranges_reproduce_and_are_measured_once(tiny, tmp_path):
    said, workload = Kept(), make_workload(tiny.config, 2)
    first = calibrated(tiny, [workload], tmp_path, said)
    assert "calibrating on 2 frames of astronaut" in said.lines[0]
    said.lines.clear()
    assert calibrated(tiny, [workload], tmp_path, said) == first
    assert not said.lines, "the cache has it"
    assert measured_ranges(tiny, [workload], first.frames, tmp_path) == first.ranges
    (path,) = (tmp_path / "calibrations").glob("*.json")
    path.write_text(path.read_text()[:-40])
    assert calibrated(tiny, [workload], tmp_path, said) == first
    assert "is not a calibration" in said.lines[0]
    assert read_calibration(path) == first


@pytest.mark.parametrize(("precision", "low", "high", "levels"), [("int8", 61, 66, 3), ("fp8", 64, 70, 3)])
def test_the_demo_stays_where_it_was_measured(demo, workload, cache, precision, low, high, levels):
    graph = cached_export(demo, STAGES["generator"], OPSET, cache)
    inputs = frame_inputs(demo, workload, STAGES["generator"], CPU)
    simulator = Simulator(graph, inputs, None, calibrated(demo, [workload], cache))
    fp32, mixed, low_bits = (simulator.frames(PRECISIONS[n], [0, 3]) for n in ("fp32", "fp16-mixed", precision))
    drift = measure_drift(fp32, low_bits)
    assert low < drift.psnr_min < high
    assert max(drift.max_lsb) <= levels
    assert measure_drift(fp32, mixed).psnr_min > drift.psnr_min + 10
    there = Simulator(graph, inputs, CPU, simulator.calibration).frames(PRECISIONS[precision], [0])
    assert measure_drift(low_bits[:1], there).psnr_min > 60, "both compute the same but for the order of sums"


def test_parts_of_a_quantized_precision_are_quantized(demo, cache):
    graph = cached_export(demo, STAGES["generator"], OPSET, cache)
    decode = next(part for part in stage_parts(graph) if part.name == "decode")
    assert decode.lowered(PRECISIONS["int8"]).quantize == PRECISIONS["int8"].quantize
    assert decode.excluded(PRECISIONS["int8"]).quantize == PRECISIONS["int8"].quantize
    assert decode.lowered(PRECISIONS["fp16"]).quantize is None


@pytest.mark.parametrize(("count", "expected"), [(1, (0,)), (3, (0, 1, 2)), (32, (0, 4, 9, 13, 18, 22, 27, 31))])
def test_frames_are_spread_from_the_first_to_the_last(count, expected):
    assert spread_frames(count) == expected


def test_a_calibration_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "ranges.json"
    write_calibration(MADE, path)
    assert read_calibration(path) == MADE


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not a calibration"),
        ("[" * 100_000, "is not a calibration"),
        ("{}", "lacks the field 'exporter'"),
        ('{"ranges": {"/a": 0.0}}', "lacks the field"),
        (None, "cannot read"),
    ],
)
def test_files_that_are_none_are_refused_in_one_sentence(tmp_path, text, fault):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=fault) as refused:
        read_calibration(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_calibration_that_changed_in_one_bit_is_another_or_none(tmp_path):
    path = tmp_path / "ranges.json"
    write_calibration(MADE, path)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 3):  # Three of every eight, each of them somewhere.
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with contextlib.suppress(UserError):
            assert read_calibration(path) == MADE


@pytest.mark.parametrize(
    ("old", "new"),
    [("2.5", "25.0"), ("2.5", "1e308"), ('"/decoder/fc/Conv": 2.5', ""), ("2.5", '2.5, "/decoder/fc/Conv": 2.4')],
)
def test_ranges_that_were_edited_are_not_used(tmp_path, old, new):
    path = tmp_path / "ranges.json"
    write_calibration(MADE, path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match="is not a calibration"):
        read_calibration(path)


def test_a_calibration_without_its_digest_is_not_used(tmp_path):
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(MADE.to_json()))
    with pytest.raises(UserError, match="is not a calibration"):
        read_calibration(path)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e308, float("inf"), float("nan")])
def test_a_range_is_positive_and_finite(value):
    with pytest.raises(ValueError, match=r"the range of /a is .*: expected a positive number"):
        dataclasses.replace(MADE, ranges={"/a": value})
