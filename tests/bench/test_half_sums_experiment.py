"""The experiment on sums in half: what it finds on a small graph, and that it names what loses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.standin import choose_weights
from sadtrt_core.stage_inputs import frame_inputs
from sadtrt_core.stages import STAGES
from sadtrt_core.workload import make_workload

ROOT = Path(__file__).parents[2]
MASK = "/dense_motion_network/mask/Conv"


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), *sys.path])


@pytest.fixture
def suite(tmp_path):
    device = torch.device("cpu")
    demo = choose_weights(256, None, None, "demo", has_gpu=False, cache=tmp_path, say=print)
    inputs = frame_inputs(demo, make_workload(demo.config, 2), STAGES["generator"], device)
    return SimpleNamespace(renderer=demo, device=device, options=SimpleNamespace(cache=tmp_path), frame_inputs=inputs)


def test_parting_the_longest_sums_helps(suite):
    from half_sums import Sums

    suite.reference = SimpleNamespace(frames=torch.zeros(len(suite.frame_inputs), 3, 256, 256))
    mixed = PRECISIONS["fp16-mixed"]
    whole, parted = (Sums(suite, replace(mixed, short_sums=short), [0]) for short in (False, True))
    assert whole.products[MASK] > 8192 > max(parted.products.values())
    assert "/decoder/conv_img/Conv" not in whole.halves

    def error(sums: Sums) -> float:
        return float((sums.pictures(dict.fromkeys(sums.halves)) - sums.pictures({})).square().mean())

    assert 0 < error(parted) < 0.8 * error(whole)
