"""What only a GPU shows of the drop-in: the picture and the time of SadTalker's own loop with it. Prints both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sadtrt_core.config import RunConfig
from sadtrt_core.drop_in import TensorRTGenerator
from sadtrt_core.engine.tensorrt_api import tensorrt_module
from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.renderer.stages import matrix_arithmetic
from sadtrt_core.session import Session
from tests.sadtalker import OwnGenerator, animation_call, make_animation

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(isinstance(tensorrt_module(), Unavailable), reason=f"needs TensorRT: {tensorrt_module()}"),
]
BATCH = 2
"""SadTalker's default."""
ROUNDS = 5


def milliseconds_a_frame(render: Callable[[], Tensor]) -> float:
    """Of the fastest of some rounds, by the host's clock, everything done."""
    times = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        frames = render()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / frames.shape[0] / frames.shape[1])
    return 1e3 * min(times)


@pytest.mark.parametrize(("precision", "least_psnr"), [("fp32", 100.0), ("fp16-mixed", 65.0)])
def test_sadtalkers_loop_renders_the_same_clip_faster(precision: str, least_psnr: float) -> None:
    session = Session(RunConfig())
    device = torch.device("cuda")
    call = animation_call(session.renderer, session.workload, BATCH, device)
    own = OwnGenerator(session.renderer).to(device)
    ours = TensorRTGenerator(renderer=session.renderer, precision=precision, batch=BATCH).eval()
    with matrix_arithmetic(tf32=False, benchmark=True):
        expected = make_animation(**call, generator=own).flatten(0, 1)
        own_ms = milliseconds_a_frame(lambda: make_animation(**call, generator=own))
        frames = make_animation(**call, generator=ours).flatten(0, 1)
        ours_ms = milliseconds_a_frame(lambda: make_animation(**call, generator=ours))
    drift = measure_drift(expected.cpu(), frames.cpu())
    found = {
        "gpu": torch.cuda.get_device_name(),
        "precision": precision,
        "frames": len(frames),
        "pytorch_fp32_ms_a_frame": round(own_ms, 3),
        "drop_in_ms_a_frame": round(ours_ms, 3),
        "psnr_min_db": round(drift.psnr_min, 2),
        "max_lsb": drift.max_lsb_worst,
    }
    print(f"\n{json.dumps(found)}")
    assert drift.psnr_min >= least_psnr
    assert ours_ms < own_ms
