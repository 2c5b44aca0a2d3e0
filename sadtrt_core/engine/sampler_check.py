"""One numeric case of volume sampling, compared with PyTorch whenever engines that sample are built.

Some parsers take a sampler's mode for another one without a word (opset 20's `linear` became nearest), and the picture
only looks a little worse. The case goes the same way as a stage: it is a Stage of its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sadtrt_core.precision import ComputeType, Precision
from sadtrt_core.renderer.sampling import sample_volume
from sadtrt_core.renderer.stages import Stage, TensorSpec

#: Largest difference from PyTorch fp32 that rounding explains; nearest instead of linear differs by about 1.
TOLERANCE: dict[ComputeType, float] = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.3}
_VOLUME = (3, 4, 5, 6)
_PLACES = (2, 3, 4)


class _Sampler(nn.Module):
    def forward(self, volume: Tensor, grid: Tensor) -> Tensor:
        return sample_volume(volume, grid)


SAMPLER_STAGE = Stage(
    "sampler-check",
    "a clip",
    inputs=lambda config: (TensorSpec("volume", _VOLUME), TensorSpec("grid", (*_PLACES, 3))),
    outputs=lambda config: (TensorSpec("samples", (_VOLUME[0], *_PLACES)),),
    module=lambda renderer: _Sampler(),
    samples=True,
)


def sampler_precision(precision: Precision) -> Precision:
    """The precision of the check: the compute type alone matters, coordinates are fp32 so that little is rounded."""
    return replace(
        precision,
        name=f"check-{precision.compute}",
        keep_coordinates=True,
        keep_picture=False,
        keep_nodes=(),
        only_nodes=None,
        quantize=None,
        tf32=False,
    )


def sampler_case() -> dict[str, Tensor]:
    """A fixed volume (1, 3, 4, 5, 6) and grid (1, 2, 3, 4, 3), partly outside the volume; float32 on the host."""
    generator = torch.Generator().manual_seed(20)
    volume = torch.randn((1, *_VOLUME), generator=generator)
    grid = torch.rand((1, *_PLACES, 3), generator=generator) * 3 - 1.5
    return {"volume": volume, "grid": grid}


def sampler_fault(samples: Tensor, compute: ComputeType) -> str | None:
    """What is wrong with the samples an engine took of `sampler_case`, in one sentence; None where nothing is."""
    case = sampler_case()
    expected = sample_volume(case["volume"], case["grid"])
    if samples.shape != expected.shape:
        return f"the sampler gives shape {tuple(samples.shape)} where PyTorch gives {tuple(expected.shape)}"
    difference = (samples - expected).abs().max().item()
    if difference <= TOLERANCE[compute]:  # False for NaN.
        return None
    nearest = nn.functional.grid_sample(case["volume"], case["grid"], mode="nearest", align_corners=False)
    guess = ""
    if torch.allclose(samples, nearest, atol=TOLERANCE[compute]):
        guess = ": it reads 'linear' as nearest"
    return f"the sampler differs from PyTorch by {difference:.3g} (at most {TOLERANCE[compute]} is rounding){guess}"
