"""What operators' cases share: tensors as the kernels store them, and what a result may differ from PyTorch by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sadtrt_core.engine.kernels import KernelLaunch

FP32_BOUND = 1e-5
"""Largest difference of fp32 arithmetic from fp64, relative to the largest number that goes in."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half a unit in the last place, relative: what one rounding to the stored type may change."""


@dataclass(frozen=True)
class Checked:
    """A result: what it is counted with, its case, and its largest difference as a share of what is allowed."""

    kind: str
    case: str
    share: float


def as_stored(tensor: Tensor, channels_last: bool) -> Tensor:
    """(N, C, ...) contiguous, or as TensorRT's kHWC8 or kDHWC8: (N, ..., C rounded up to 8), NaN where C is not."""
    if not channels_last:
        return tensor.contiguous()
    missing = -tensor.shape[1] % 8
    return torch.nn.functional.pad(tensor.movedim(1, -1), (0, missing), value=float("nan")).contiguous()


def empty_output(shape: tuple[int, ...], like: Tensor, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Memory for an output (N, C, ...) in either layout, and a view of it in that shape.

    It is of NaN, so that what is not written shows.
    """
    batch, channels, *places = shape
    stored = (batch, *places, channels) if channels_last else shape
    output = torch.full(stored, float("nan"), dtype=like.dtype, device=like.device)
    return output, output.movedim(-1, 1) if channels_last else output


def worst_share(output: Tensor, expected: Tensor, arithmetic: Tensor | float, compared: Tensor | None = None) -> float:
    """Largest difference as a share of what is allowed (at most 1 passes); infinity where only one of both is finite.

    Allowed is `arithmetic`, for fp32 in place of fp64, plus one rounding of the expected value to the output's type (at
    least of the smallest normal number). `compared` says which values count; None: all.
    """
    if output.shape != expected.shape:
        return float("inf")
    output, finite = output.to(expected.device), expected.isfinite()
    rounding = ROUNDING[output.dtype] * expected.abs().clamp_min(torch.finfo(output.dtype).tiny)
    share = torch.where(finite, (output.double() - expected).abs() / (arithmetic + rounding), 0.0)
    share = torch.where(output.isfinite() == finite, share, float("inf"))
    return float((share if compared is None else torch.where(compared, share, 0.0)).amax())


def kind_of(tensor: Tensor, channels_last: bool, what: str) -> str:
    """Type, layout and what is computed, by which plugin/check.py gathers cases."""
    layout = "channels last" if channels_last else "linear"
    return f"{str(tensor.dtype).removeprefix('torch.')}, {layout}, {what}"


def replayed(launches: Sequence[KernelLaunch], expected: Sequence[Tensor]) -> Iterator[str]:
    """What goes wrong where the launches follow one another in a CUDA graph: nothing runs before it is replayed."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    if not all(launch.result.isnan().all() for launch in launches):
        yield "capturing a CUDA graph ran the kernel"
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    if not all(torch.equal(launch.result.to(e.device), e) for launch, e in zip(launches, expected, strict=True)):
        yield "a replayed CUDA graph gave other numbers"
