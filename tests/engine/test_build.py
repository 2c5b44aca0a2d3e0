"""Building: what TensorRT refuses becomes one sentence, and a bad timing cache costs nothing but a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from reports import Kept

from sadtrt_core.engine.build import build_engine
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.errors import BuildError

MakeGraph = Callable[..., onnx.ModelProto]
MakeJob = Callable[..., BuildJob]
LABEL = "mapping fp16 native batch 2 256 px"


def test_a_typed_graph_becomes_an_engine_and_reports_its_phases(make_job: MakeJob, trt: Any) -> None:
    kept = Kept()
    built = build_engine(trt, make_job(), report=kept)
    assert len(built.plan) > 100
    assert built.seconds > 0
    assert kept.tasks or not hasattr(trt, "IProgressMonitor")


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_refused_timing_cache_is_said_and_does_not_fail_the_build(make_job: MakeJob, trt: Any) -> None:
    kept = Kept()
    built = build_engine(trt, make_job(), b"not a timing cache", kept)
    assert len(built.plan) > 100
    assert kept.lines == [f"{LABEL}: TensorRT refused the timing cache; building without it"]


def test_what_is_not_onnx_is_refused_in_a_sentence(make_job: MakeJob, trt: Any) -> None:
    with pytest.raises(BuildError, match=rf"^{LABEL}: the graph is not ONNX \(\d+ bytes\): export it again$"):
        build_engine(trt, make_job(b"\x08\x96 this is no graph"))


def test_an_operator_that_does_not_exist_is_named(half_graph: MakeGraph, make_job: MakeJob, trt: Any) -> None:
    with pytest.raises(BuildError, match="node 'squash' has the operator 'Squash', which ONNX lacks"):
        build_engine(trt, make_job(half_graph("Squash").SerializeToString()))


def test_an_operator_that_tensorrt_cannot_read_is_named_with_its_node(
    half_graph: MakeGraph, make_job: MakeJob, trt: Any
) -> None:
    with pytest.raises(BuildError, match=rf"^{LABEL}: TensorRT [\d.]+ cannot read the graph.*squash.*\(Det\)"):
        build_engine(trt, make_job(half_graph("Det").SerializeToString()))


def test_a_plugin_node_without_the_plugin_says_how_to_build_it(
    half_graph: MakeGraph, make_job: MakeJob, trt: Any
) -> None:
    model = half_graph()
    model.graph.node.insert(1, helper.make_node("GridSample3D", ["x_half", "x"], ["unused"], name="sampler"))
    with pytest.raises(BuildError, match=r"node 'sampler'.*sadtrt build-plugin"):
        build_engine(trt, make_job(model.SerializeToString()))


def test_inputs_of_another_stage_are_refused(make_job: MakeJob, trt: Any) -> None:
    with pytest.raises(BuildError, match="the graph's inputs are x: expected source_image"):
        build_engine(trt, make_job(input_shapes=(("source_image", (1, 3, 256, 256)),)))


def test_operands_of_unlike_type_are_an_error_not_a_silent_cast(
    half_graph: MakeGraph, make_job: MakeJob, trt: Any
) -> None:
    model = half_graph()
    model.graph.initializer[0].CopyFrom(helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
    with pytest.raises(BuildError, match=f"^{LABEL}: "):
        build_engine(trt, make_job(model.SerializeToString()))
