"""The plugin's other operators by themselves, at 256 pixels: our kernels and PyTorch, beside what the memory gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from plugin.common.timing import COMPILED, EAGER, Timing
from plugin.dense_motion.cases import timings as of_motion
from plugin.picture_conv.cases import timings as of_pictures
from plugin.spade_norm.cases import timings as of_norms
from plugin.split_sum.cases import timings as of_sums
from sadtrt_core.engine.kernels import find_kernels, kernels_absence
from sadtrt_core.plan import precision_named
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.session import Session

TIMINGS = (*of_norms(), *of_sums(), *of_motion(), *of_pictures())
RUNNERS = {EAGER: "pytorch", COMPILED: "torch-compile"}
"""The runners that PyTorch's forms belong to, for `--runner`; the kernels belong to TensorRT's."""
CPU_BYTES = 40e6
"""What moves more is left to a GPU."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every method of every operator that the options leave; one skipped row where they leave none."""
    option = metafunc.config.getoption
    types = {precision_named(name).torch_type for name in option("precision") or PRECISIONS}
    rows = [
        pytest.param(timing, method, id=f"{timing.operator}, {timing.shape}, {timing.dtype}, {method}")
        for timing in TIMINGS
        for method in timing.methods
        if timing.dtype in types
        and RUNNERS.get(method, "tensorrt") in (option("runner") or [*RUNNERS.values(), "tensorrt"])
    ]
    reason = None if rows else "no operator is left by --runner and --precision"
    if 1 not in (option("batch") or [1]):
        reason = "operators are timed at a batch of one (--batch 1)"
    if option("stage"):
        reason = "--stage was given, and an operator by itself is no stage"
    if reason is not None:
        rows = [pytest.param(None, None, id="none", marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize(("timing", "method"), rows)


def _absence(timing: Timing, method: str, session: Session) -> str | None:
    if method in timing.kernels:
        return kernels_absence(session.device)
    if session.device.type == "cuda":
        return None
    if method == COMPILED and RUNNERS[method] not in session.options.runners:
        return "compiling takes minutes on a CPU (--runner torch-compile)"
    if timing.dtype != torch.float32:
        return "half is timed on a GPU: a CPU computes it in fp32 and rounds"
    if timing.bytes_moved > CPU_BYTES:
        return f"operators that move more than {CPU_BYTES / 1e6:.0f} MB are timed on a GPU"
    return None


def test_operator(timing: Timing, method: str, session: Session, time_operator: Callable[..., None]) -> None:
    if (reason := _absence(timing, method, session)) is not None:
        pytest.skip(reason)
    with torch.inference_mode():
        launcher = timing.launcher(method, find_kernels)
        case = timing.make(session.device, 0)
        result = launcher(case)()
        if method in timing.kernels:
            share = timing.excess(case, result)
            assert share <= 1.0, f"differs from PyTorch by {share:.3g} times what is allowed: not worth timing"
        expected = timing.function(*timing.arguments(case, torch.float32))[-1]
        time_operator(
            timing.operator,
            lambda seed: launcher(timing.make(session.device, seed)),
            shape=timing.shape,
            dtype=str(timing.dtype).removeprefix("torch."),
            method=method,
            bytes_moved=timing.bytes_moved,
            max_difference=(result.float() - expected).abs().max().item(),
        )
