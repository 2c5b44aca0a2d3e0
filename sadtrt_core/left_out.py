"""Which cases a run leaves out, and why: this machine cannot, it takes minutes, or it says nothing."""

from __future__ import annotations

import torch

from sadtrt_core.case import Case
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.errors import Unavailable
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.session import Session

#: Compute capability of GPUs for which TensorRT 8.6 has convolutions in half of their own, but none in eight bits
#: (results/README.md#int8).
_HOPPER = (9, 0)


def not_measured(session: Session, case: Case, timed: bool) -> Unavailable | None:
    """Why the case is left out: this machine cannot, or it takes minutes, or says nothing, unless it was named."""
    missing = session.unavailable(case)
    if missing is not None:
        return missing
    precision = session.precision(case.precision)
    # A plan is asked for by its file.
    named = case.precision in {session.precision(name).name for name in session.options.precisions}
    if timed and precision.half_coordinates and not (named or case.runner.startswith("tensorrt")):
        words = f"{case.precision} samples by separate operations here: its drift means something, its time does not"
        return Unavailable(words, f"--precision {case.precision}")
    compiled = case.runner.startswith("torch-compile")
    if not session.on_gpu and compiled and case.runner not in session.options.runners:
        return Unavailable("compiling takes minutes on a CPU", f"--runner {case.runner}")
    quantized = precision.quantize is not None
    if not session.on_gpu and timed and quantized and not named:
        words = f"{case.precision} computes in fp32 on a CPU: its drift means something, its time does not"
        return Unavailable(words, f"--precision {case.precision}")
    return _no_use_in_eight_bits(session, case, named) if quantized else None


def _no_use_in_eight_bits(session: Session, case: Case, named: bool) -> Unavailable | None:
    """Why a row of int8 or fp8 would not be what it is called, or is slower than what loses less; None else."""
    if STAGES[case.stage].module is not None and not session.quantizes(case):
        words = f"{case.precision} quantizes no convolution of the stage {case.stage}"
        return Unavailable(f"{words}: the row would be another precision's under its name", "--stage decode")
    trt = api.tensorrt_module() if case.runner.startswith("tensorrt") else None
    if trt is None or isinstance(trt, Unavailable) or api.strongly_typed(trt):
        return None
    here = f"TensorRT {api.version_text(trt)}"
    if session.grid_sample != "plugin":
        words = f"engines of {here} in {case.precision} lose around the decoder's norms what their types hold"
        return Unavailable(f"{words}: the plugin's norms are needed", "sadtrt build-plugin")
    if not named and torch.cuda.get_device_capability(session.device) >= _HOPPER:
        words = f"{here} has no convolutions in eight bits for this generation of GPUs, only an older one's"
        return Unavailable(
            f"{words}: with the passes around them they take longer than fp16-mixed", f"--precision {case.precision}"
        )
    return None
