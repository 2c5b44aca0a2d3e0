"""Times of the sampling kernel and of PyTorch's grid_sample at the renderer's shapes, with CUDA events.

Each time is taken twice, "cold" and "warm" as sadtrt_core/sampling/device_times.py has it: the time of a whole CUDA
graph divided by its launches. "single" is one launch between two events, launch overhead included, on warm tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kernel_calls import call, empty_output, workspace_for
from sampling_cases import to_channels_last

from sadtrt_core.engine.sampling_kernel import SamplingKernel, SamplingMode
from sadtrt_core.sampling.device_times import copies_beyond_cache, graph_time_us, single_time_us
from sadtrt_core.sampling.shapes import BATCHED_SHAPES, RENDERER_SHAPES, SamplingShape, renderer_grids
from sadtrt_core.sampling.torch_forms import TORCH_FORMS, TorchLaunch

MODE = SamplingMode("bilinear", "zeros", False)
SHAPES = (*RENDERER_SHAPES, *BATCHED_SHAPES)
LINEAR, WITHOUT_WORKSPACE, CHANNELS_LAST = "kernel, linear", "kernel, linear, no workspace", "kernel, channels last"

Launch = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """One row of the table; times in microseconds, rate in bytes a second of the cold time."""

    shape: str
    dtype: str
    method: str
    cold_us: float
    warm_us: float
    single_us: float
    bytes_moved: int
    cold_rate: float


def _linear(
    kernel: SamplingKernel, volume: torch.Tensor, grid: torch.Tensor, packing: str = "auto", group: int = 0
) -> Launch:
    output = empty_output(volume, grid)
    workspace = workspace_for(kernel, volume, grid, MODE) if packing != "never" else None
    return lambda: call(
        kernel, volume, grid, output, MODE, workspace=workspace, packing=packing, channels_per_thread=group
    )


def _channels_last(kernel: SamplingKernel, volume: torch.Tensor, grid: torch.Tensor) -> Launch:
    laid_out = to_channels_last(volume)
    output = empty_output(laid_out, grid, "channels_last")
    return lambda: call(kernel, laid_out, grid, output, MODE, "channels_last", volume.shape[1])


def time_shape(
    kernel: SamplingKernel, shape: SamplingShape, dtype: torch.dtype, device: torch.device, every_group: bool
) -> list[Timing]:
    """Rows for one shape and type: the kernel in both layouts, with a workspace and without, and PyTorch in each form.

    every_group adds each channels_per_thread.
    """
    moved = shape.bytes_moved(dtype.itemsize)
    count = copies_beyond_cache(moved, device)
    sets = []
    for number in range(count):
        volume = torch.randn(shape.volume_shape, device=device).to(dtype)
        sets.append((volume, renderer_grids(shape, device, number)))
    methods: dict[str, Callable[[torch.Tensor, torch.Tensor], Launch]] = {
        LINEAR: lambda volume, grid: _linear(kernel, volume, grid),
        WITHOUT_WORKSPACE: lambda volume, grid: _linear(kernel, volume, grid, "never"),
    }
    for group in (4, 8, 16):
        if every_group and group <= shape.channels and shape.channels > 4:
            methods[f"{WITHOUT_WORKSPACE}, {group} channels a thread"] = lambda volume, grid, group=group: _linear(
                kernel, volume, grid, "never", group
            )
    if shape.channels % 8 == 0:
        methods[CHANNELS_LAST] = lambda volume, grid: _channels_last(kernel, volume, grid)
    for form in TORCH_FORMS:
        if form.applies(shape, dtype):
            methods[form.name] = lambda volume, grid, form=form: TorchLaunch(form, volume, grid)
    rows = []
    for method, make in methods.items():
        launches = [make(volume, grid) for volume, grid in sets]
        cold = graph_time_us(launches)
        warm = graph_time_us(launches[:1])
        single = single_time_us(launches[0])
        name = str(dtype).removeprefix("torch.")
        rows.append(Timing(shape.name, name, method, cold, warm, single, moved, moved / (cold * 1e-6)))
        del launches
    return rows
