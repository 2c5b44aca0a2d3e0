"""Losses of graphs with planted faults: the fault is named first, and what is sound is not accused."""

from __future__ import annotations

import copy
import dataclasses
import json

import onnx
import pytest
import torch
from onnx import numpy_helper

from sadtrt_core.accuracy.findings import worst_frames
from sadtrt_core.accuracy.losses import losses_report, measure_losses
from sadtrt_core.accuracy.parts import node_flops, stage_parts
from sadtrt_core.accuracy.ranges import find_ranges, range_lines
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.config import RunConfig
from sadtrt_core.graph.calibrate import calibrated
from sadtrt_core.graph.edit import constants_to_initializers, replace_nodes
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.typed import coordinate_slice, kept_nodes, picture_slice
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import COORDINATES, PRECISIONS
from sadtrt_core.progress import Reporter
from sadtrt_core.records.measurements import Drift
from sadtrt_core.renderer.sampling import NODE_TYPE
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.standin import choose_weights
from sadtrt_core.renderer.workload import frame_inputs, held_out, make_workload
from sadtrt_core.session import Session

pytestmark = pytest.mark.usefixtures("_one_thread")
FP16 = PRECISIONS["fp16"]
GENERATOR = STAGES["generator"]
# Powers of two leave fp32 exactly as it was; 2^17 is beyond half's largest number, 65504.
OVERFLOWING = 2.0**17


@pytest.fixture(scope="module")
def inputs(tiny):
    return frame_inputs(tiny, make_workload(tiny.config, 2), GENERATOR, torch.device("cpu"))


@pytest.fixture(scope="module")
def graph(tiny):
    return export_stage(tiny, GENERATOR)


def with_overflow(renderer):
    """A block whose hidden map is scaled up by one convolution and down again by the next, with a ReLU between."""
    generator = copy.deepcopy(renderer.generator)
    norm = generator.decoder.G_middle_1.norm_0
    norm.mlp_shared[0].weight.mul_(OVERFLOWING)
    norm.mlp_shared[0].bias.mul_(OVERFLOWING)
    for after in (norm.mlp_gamma, norm.mlp_beta):
        after.weight.div_(OVERFLOWING)
    return dataclasses.replace(renderer, generator=generator)


def with_coarse_coordinates(graph):
    """Grids that pass through 8 + x: fp32 keeps 20 bits behind the point, half 7, so half rounds x to 8 bits."""
    coarse = onnx.ModelProto()
    coarse.CopyFrom(graph)
    constants_to_initializers(coarse)
    coarse.graph.initializer.append(numpy_helper.from_array(torch.tensor(8.0).numpy(), "eight"))
    nodes = []
    for node in coarse.graph.node:
        if node.op_type == NODE_TYPE:
            grid, name = node.input[1], f"{node.name}_planted"
            nodes.append(onnx.helper.make_node("Add", [grid, "eight"], [f"{name}_sum"], name=f"{name}/Add"))
            nodes.append(onnx.helper.make_node("Sub", [f"{name}_sum", "eight"], [name], name=f"{name}/Sub"))
            node.input[1] = name
        nodes.append(node)
    replace_nodes(coarse, nodes)
    return coarse


@pytest.fixture(scope="module")
def sound(graph, inputs):
    with torch.inference_mode():
        return measure_losses(Simulator(graph, inputs), FP16, count=1)


@pytest.fixture
def report(tiny, tmp_path):
    """Losses of half precision as a report of the session they were measured for."""
    session = Session(RunConfig(weights="seeded", frames=2, device="cpu", cache=tmp_path))
    session.__dict__["renderer"] = tiny  # A cached property: the tiny networks in place of the demo's.
    return lambda found, *more: losses_report(session, FP16, found, *more)


def overflows(found):
    return [finding for finding in found.ranges if finding.kind == "overflow"]


def calibrated_findings(found):
    return [finding for finding in found if finding.calibrated is not None]


def test_ranges_of_another_motion_hold_nearly_all_that_is_rendered(tiny, graph, inputs, tmp_path):
    ranges = calibrated(tiny, [held_out(make_workload(tiny.config, 2), tiny.config)], tmp_path)
    simulator = Simulator(graph, inputs, calibration=ranges)
    found = calibrated_findings(find_ranges(simulator, (0, 1), PRECISIONS["int8"], {}))
    # Of twelve convolutions under noise, from two frames of the other motion.
    assert len(found) <= 2
    assert all(finding.largest < 2 * finding.calibrated for finding in found)


def test_a_wrong_scale_is_named_first(tiny, graph, inputs, tmp_path):
    ranges = calibrated(tiny, [make_workload(tiny.config, 2)], tmp_path)
    name, other = "/decoder/G_middle_3/conv_0/Conv", "/decoder/G_middle_0/conv_1/Conv"
    wrong = {**ranges.ranges, name: ranges.ranges[name] / 64, other: ranges.ranges[other] * 8}
    simulator = Simulator(graph, inputs, calibration=dataclasses.replace(ranges, ranges=wrong))
    found = measure_losses(simulator, PRECISIONS["int8"], count=1)
    clipped, wide = calibrated_findings(found.ranges)
    assert (clipped.node, clipped.kind, clipped.calibrated) == (name, "clipped", wrong[name])
    assert (wide.node, wide.kind) == (other, "wide")
    assert clipped.largest > 30 * wrong[name]
    assert found.ranked("stage")[0].part == "decode"
    assert found.ranked("block")[0].part == "/decoder/G_middle_3"
    assert found.ranked("nodes")[0].part == "/decoder/G_middle_3/conv_0"
    text = "\n".join(range_lines(found.ranges, "float16"))
    assert (
        f"/decoder/G_middle_3: input of {name} reaches {clipped.largest:.3g}, calibrated to {wrong[name]:.3g}" in text
    )


def test_a_block_that_overflows_in_half_is_named_first(tiny, graph, inputs, sound, report):
    planted = export_stage(with_overflow(tiny), GENERATOR)
    fp32 = PRECISIONS["fp32"]
    before, after = (Simulator(g, inputs).frames(fp32, [0]) for g in (graph, planted))
    assert torch.equal(before, after)
    assert not overflows(sound)
    found = measure_losses(Simulator(planted, inputs), FP16, count=1)
    assert found.low.non_finite_frames == 1
    first = {level: found.ranked(level)[0] for level in ("stage", "block", "nodes")}
    assert first["stage"].part == "decode"
    assert first["block"].part == "/decoder/G_middle_1"
    assert first["nodes"].part == "/decoder/G_middle_1/norm_0"
    for part in first.values():
        assert part.lowered.non_finite_frames == 1
        assert part.excluded.non_finite_frames == 0
    # Nobody else is accused: every other part is finite alone.
    accused = {part.part for part in found.parts if part.lowered.non_finite_frames}
    assert accused == {part.part for part in first.values()}
    node = "/decoder/G_middle_1/norm_0/mlp_shared/mlp_shared.0/Conv"
    outputs = [finding for finding in overflows(found) if finding.what == "output"]
    assert [(f.node, f.part) for f in outputs] == [(node, "/decoder/G_middle_1")]
    assert outputs[0].largest > 65504
    text = report(found).text
    assert "Beyond float16" in text
    assert f"/decoder/G_middle_1: output of {node} reaches" in text
    assert "not finite" in text


def test_coordinates_rounded_to_8_bits_are_named_first(graph, inputs, sound):
    candidates = Simulator(with_coarse_coordinates(graph), inputs)
    fp32 = PRECISIONS["fp32"]
    assert (candidates.frames(fp32, [0]) - Simulator(graph, inputs).frames(fp32, [0])).abs().max() < 2e-3
    found = measure_losses(candidates, FP16, count=1)
    first, second = found.ranked("stage")[:2]
    assert first.part == COORDINATES
    assert first.lowered.decibels < second.lowered.decibels - 10
    # Keeping them, and them alone, brings the picture back.
    assert first.excluded.decibels > found.low.decibels + 10
    without = {part.part: part for part in sound.parts}
    assert first.lowered.decibels < without[COORDINATES].lowered.decibels - 5
    assert second.lowered.decibels == pytest.approx(without[second.part].lowered.decibels, abs=1)
    # The very nodes: the planted ones round more than any of the renderer's own.
    assert "planted" in found.ranked("nodes")[0].part
    assert first.arithmetic < 0.01


def test_parts_cover_the_arithmetic_once(sound):
    assert sum(part.arithmetic for part in sound.parts if part.level == "stage") == pytest.approx(1.0)
    for stage in {part.within for part in sound.parts if part.level == "block"}:
        whole = next(part.arithmetic for part in sound.parts if part.part == stage)
        pieces = [part.arithmetic for part in sound.parts if part.within == stage]
        assert sum(pieces) == pytest.approx(whole, rel=1e-6)


def test_findings_are_kept_whole(sound, report, tmp_path):
    made = report(sound)
    folder = made.write(tmp_path)
    again = made.write(tmp_path)
    assert folder != again
    assert f"-drift-fp16-{made.content['versions']['commit'][:10]}" in folder.name
    kept = json.loads((folder / "drift.json").read_text())
    assert kept == made.content
    assert kept["low"] == dataclasses.asdict(sound.low)
    assert [part["part"] for part in kept["parts"]] == [part.part for part in sound.parts]
    assert [one["below_normal"] for one in kept["ranges"]] == [one.below_normal for one in sound.ranges]
    text = (folder / "drift.txt").read_text()
    for part in sound.parts:
        assert part.part in text
    assert "These weights are noise" in text


def test_an_interruption_keeps_what_was_measured(graph, inputs, report):
    told = []

    class Interrupting(Reporter):
        def progress(self, task, done, total):
            told.append(total)
            if done == 4:
                raise KeyboardInterrupt

    found = measure_losses(Simulator(graph, inputs), FP16, count=1, reporter=Interrupting())
    assert not found.complete
    assert [part.part for part in found.parts] == ["appearance", "motion"]
    assert told[-1] > 4
    made = report(found)
    assert not made.complete
    assert "Interrupted" in made.text


def test_fp32_has_no_loss_to_measure(graph, inputs):
    with pytest.raises(ValueError, match="'tf32' computes in float32: there is no loss to measure"):
        measure_losses(Simulator(graph, inputs), PRECISIONS["tf32"])


def test_shares_of_time_are_shown_with_their_source(sound, report):
    text = report(sound, ({"warp": 0.25}, "tensorrt fp16 on a GPU")).text
    assert "25%" in text
    assert "tensorrt fp16 on a GPU" in text


def test_values_under_the_normal_range_are_found_with_their_share(sound):
    (heatmap,) = [f for f in sound.ranges if f.node == "/dense_motion_network/Exp"]
    assert heatmap.kind == "underflow"
    assert heatmap.below_normal > 0.5
    assert heatmap.largest <= 1.0
    assert heatmap.part.startswith("/dense_motion_network: ")


def test_worst_frames_are_the_broken_ones_then_the_lowest():
    drift = Drift((50.0, None, 40.0, None, 45.0), (1, 1, 1, None, 1), (0,) * 5, (False, False, False, True, False))
    assert worst_frames(drift, 1) == (3,)
    assert worst_frames(drift, 3) == (2, 3, 4)
    assert worst_frames(drift, 9) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-mixed", "bf16"])
def test_a_device_renders_what_onnx_runtime_renders(graph, inputs, precision):
    """PyTorch's device code on the CPU: the same graph, operator by operator."""
    fp32, wanted = PRECISIONS["fp32"], PRECISIONS[precision]
    here = Simulator(graph, inputs, torch.device("cpu"))
    there = Simulator(graph, inputs)
    reference = there.frames(fp32, [1])
    old = measure_drift(reference, there.frames(wanted, [1]))
    new = measure_drift(reference, here.frames(wanted, [1]))
    if precision == "fp32":
        assert new.psnr_min > 100
    else:
        assert new.psnr_min == pytest.approx(old.psnr_min, abs=1.0)


def test_a_device_parts_the_sums_that_are_parted_elsewhere(tmp_path):
    """Large weights are inputs of a device's graph, which have no values to part."""
    demo = choose_weights(256, None, None, "demo", has_gpu=False, cache=tmp_path)
    inputs = frame_inputs(demo, make_workload(demo.config, 1), GENERATOR, torch.device("cpu"))
    here = Simulator(export_stage(demo, GENERATOR), inputs, torch.device("cpu"))
    mixed = PRECISIONS["fp16-mixed"]
    parted, whole = (here.frames(dataclasses.replace(mixed, split_k=short), [0]) for short in (True, False))
    assert not torch.equal(parted, whole)
    assert measure_drift(whole, parted).psnr_min > 60, "the same arithmetic but for a rounding in between"


def test_a_device_finds_the_same_ranges_and_arithmetic(tiny, inputs, sound):
    planted = export_stage(with_overflow(tiny), GENERATOR)
    here, there = Simulator(planted, inputs, torch.device("cpu")), Simulator(planted, inputs)
    old, new = (find_ranges(c, [0], FP16, {}) for c in (there, here))
    assert [(f.node, f.kind, f.what) for f in new] == [(f.node, f.kind, f.what) for f in old]
    assert new[0].largest == pytest.approx(old[0].largest, rel=1e-3)
    assert node_flops(here.graph, here.shapes) == node_flops(there.graph, there.shapes)


def test_an_operator_nobody_taught_is_refused(graph, inputs):
    strange = onnx.ModelProto()
    strange.CopyFrom(graph)
    strange.graph.node[0].op_type = "Erf"
    with pytest.raises(ValueError, match="operator Erf is not one PyTorch is taught here"):
        Simulator(strange, inputs, torch.device("cpu")).frames(PRECISIONS["fp32"], [0])


def test_what_the_precision_keeps_stays_kept_whatever_part_is_looked_at(graph):
    mixed = PRECISIONS["fp16-mixed"]
    slices = coordinate_slice(graph) | picture_slice(graph)
    assert len(slices) > 10
    for part in stage_parts(graph):
        assert slices <= kept_nodes(graph, part.excluded(mixed))
        assert slices <= kept_nodes(graph, part.lowered(mixed))
        assert part.nodes <= kept_nodes(graph, part.excluded(mixed))
        assert not (part.nodes - slices) & kept_nodes(graph, part.lowered(mixed))
