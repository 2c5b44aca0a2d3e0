"""One row in the table is a runner: available, created and labelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sadtrt_core.errors import Unavailable
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.registry import RUNNERS, RunnerKind, grid_sample_label, runner_named


class Zeros(StageRunner):
    """Answers every stage with zeros."""

    def activate(self) -> None:
        pass

    def deactivate(self) -> None:
        pass

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        pass

    def execute(self) -> None:
        pass

    def fetch(self) -> dict[str, Tensor]:
        return {spec.name: torch.zeros(spec.batched(self.job.batch)) for spec in self.job.outputs}


def absence(job: Job) -> Unavailable | None:
    return Unavailable("zeros have no precision", "--precision fp32") if job.precision.name != "fp32" else None


def test_a_new_row_is_a_runner(seeded_demo: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNNERS, "zeros", RunnerKind("zeros", Zeros, absence, graph=True))
    kind = runner_named("zeros")
    cpu = torch.device("cpu")
    job = Job(seeded_demo, STAGES["decode"], PRECISIONS["fp32"], "native", 2, cpu, tmp_path)
    assert kind.available(job) is None
    half = replace(job, precision=PRECISIONS["fp16"])
    assert str(kind.available(half)) == "zeros have no precision (--precision fp32)"
    assert grid_sample_label(kind, STAGES["warp"], "builtin") == "builtin"
    with kind.create(job) as runner:
        frames = runner.infer({spec.name: torch.rand(spec.batched(2)) for spec in job.inputs})["prediction"]
    assert frames.shape == (2, 3, 256, 256)
    assert not frames.any()
