"""Drift of the rendered frames over the driving sequence, by every runner, in every precision."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from sadtrt_core.benchmark import NOT_TIMED, measure_drift
from sadtrt_core.measure.interleave import Interleaver
from sadtrt_core.report.metrics import extra_info
from sadtrt_core.runners.base import StageRunner
from sadtrt_core.session import Session


def test_precision_drift(
    stage: str, runner: str, precision: str, session: Session, interleaver: Interleaver, benchmark: Any, recorded: Any
) -> None:
    case = session.case(stage, runner, precision)
    benchmark.group = f"{stage}, drift over the driving sequence"

    def render(active: StageRunner) -> Tensor:
        inputs = session.frame_inputs(stage)
        frames: Tensor = benchmark.pedantic(active.frames, args=(inputs,), rounds=1, iterations=1)
        if benchmark.disabled:
            pytest.skip(NOT_TIMED)
        return frames

    with recorded(case, timed=False):
        interleaver.finish()  # Nothing waits for its next repetition while frames are rendered.
        record, _ = measure_drift(session, case, render)
    benchmark.extra_info.update(extra_info(record), weights=session.renderer.weights.kind)
