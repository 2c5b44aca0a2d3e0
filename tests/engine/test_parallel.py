"""Parallel builds: every engine on its own, whatever happens to the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import onnx
import pytest
from reports import Kept

from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import BuildJob
from sadtrt_core.engine.parallel import build_all

MakeJob = Callable[..., BuildJob]
MakeGraph = Callable[..., onnx.ModelProto]


def must_not_build(*arguments: Any) -> Any:
    raise AssertionError("the engine should be in the cache")


def test_one_failure_does_not_stop_the_others(half_graph: MakeGraph, trt: Any, make_job: MakeJob) -> None:
    good = make_job()
    bad = make_job(half_graph("Det").SerializeToString(), stage="warp")
    other = make_job(half_graph("Tanh").SerializeToString(), stage="decode")
    kept = Kept()
    failures = build_all([good, bad, other], 2, kept)
    assert failures[0] is None
    assert failures[1] is not None
    assert "cannot read the graph" in failures[1]
    assert failures[2] is None
    started = [task for task, _, _ in kept.tasks if task.endswith(": starting")]
    assert started == [f"{job.label}: starting" for job in (other, bad, good)], "what takes longest starts first"
    for job in (good, other):
        ensure_engine(job, builder=must_not_build)
    assert any(
        task.startswith(good.label) and total == 1 and done < 1 for task, done, total in kept.tasks
    ) or not hasattr(trt, "IProgressMonitor")


def test_a_process_that_dies_is_reported(make_job: MakeJob) -> None:
    class Kill(Kept):
        def progress(self, task: str, done: float, total: float | None) -> None:
            for child in multiprocessing.active_children():
                child.kill()

    (failure,) = build_all([make_job()], 1, Kill())
    assert failure == "mapping fp16 native batch 2 256 px: the build process died with exit code -9"


def test_an_interrupt_ends_every_process(make_job: MakeJob) -> None:
    class Interrupt(Kept):
        def progress(self, task: str, done: float, total: float | None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_all([make_job(), make_job(stage="warp")], 2, Interrupt())
    assert multiprocessing.active_children() == []


def test_no_process_at_all_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(ValueError, match="0 processes cannot build engines"):
        build_all([make_job()], 0)


def test_half_and_large_stages_start_first(make_job: MakeJob) -> None:
    class Order(Kept):
        def progress(self, task: str, done: float, total: float | None) -> None:
            super().progress(task, done, total)
            for child in multiprocessing.active_children():
                child.kill()

    small, generator = make_job(), make_job(stage="generator")
    single = make_job(stage="generator", precision="fp32")
    order = Order()
    build_all([small, single, generator], 1, order)
    started = [task for task, _, _ in order.tasks if task.endswith(": starting")]
    assert started == [f"{job.label}: starting" for job in (generator, single, small)]
