"""One row in the table is a stage: exported, and run by every runner that a CPU has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES, Stage, TensorSpec, clip_parts, stage_named
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import RUNNERS, grid_sample_label


class Doubled(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * value + 1


TOY = Stage(
    "toy",
    "each frame",
    inputs=lambda config: (TensorSpec("value", (3, 4)),),
    outputs=lambda config: (TensorSpec("doubled", (3, 4)),),
    module=lambda renderer: Doubled(),
)


@pytest.mark.parametrize("runner", ["pytorch", "onnxruntime"])
def test_a_new_row_is_a_stage(
    runner: str, seeded_demo: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "toy", TOY)
    cpu = torch.device("cpu")
    job = Job(seeded_demo, stage_named("toy"), PRECISIONS["fp32"], "native", 2, cpu, tmp_path)
    kind, value = RUNNERS[runner], torch.rand(2, 3, 4)
    assert kind.available(job) is None
    assert grid_sample_label(kind, job.stage, "native") == "none"
    with kind.create(job) as active:
        torch.testing.assert_close(active.infer({"value": value})["doubled"], 2 * value + 1)


def test_parts_stand_in_the_order_they_run() -> None:
    assert GENERATOR_PARTS == ("appearance", "motion", "warp", "decode")
    assert clip_parts() == ("keypoints", "mapping", "appearance", "frame")
