"""Times of the sampling kernel and of PyTorch's grid_sample at the renderer's shapes, with CUDA events.

Each time is taken twice, "cold" and "warm" as sadtrt_core/sampling/device_times.py has it: the time of a whole CUDA
graph divided by its launches. "single" is one launch between two events, launch overhead included, on warm tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kernel_calls import call, empty_output
from sampling_cases import to_channels_last

from sadtrt_core.engine.sampling_kernel import SamplingKernel, SamplingMode
from sadtrt_core.sampling.device_times import copies_beyond_cache, graph_time_us, single_time_us
from sadtrt_core.sampling.shapes import BATCHED_SHAPES, RENDERER_SHAPES, SamplingShape, renderer_grids

MODE = SamplingMode("bilinear", "zeros", False)
SHAPES = (*RENDERER_SHAPES, *BATCHED_SHAPES)


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


def _kernel_launches(
    kernel: SamplingKernel, sets: list[tuple[torch.Tensor, torch.Tensor]], layout: str, channels_per_thread: int
) -> list[Callable[[], object]]:
    def launcher(volume: torch.Tensor, grid: torch.Tensor) -> Callable[[], object]:
        laid_out = volume if layout == "linear" else to_channels_last(volume)
        output = empty_output(laid_out, grid, layout)
        return lambda: call(
            kernel, laid_out, grid, output, MODE, layout, volume.shape[1], channels_per_thread=channels_per_thread
        )

    return [launcher(volume, grid) for volume, grid in sets]


def _torch_launches(sets: list[tuple[torch.Tensor, torch.Tensor]]) -> list[Callable[[], object]]:
    def launcher(volume: torch.Tensor, grid: torch.Tensor) -> Callable[[], object]:
        repeats = grid.shape[0] // volume.shape[0]
        shared = volume[:, None].expand(-1, repeats, -1, -1, -1, -1).flatten(0, 1) if repeats > 1 else volume
        if volume.shape[0] == 1:
            shared = volume.expand(grid.shape[0], -1, -1, -1, -1)  # a view: PyTorch repeats nothing either
        same_type = grid.to(volume.dtype)  # PyTorch wants the grid in the volume's type
        return lambda: torch.nn.functional.grid_sample(shared, same_type, align_corners=False)

    return [launcher(volume, grid) for volume, grid in sets]


def time_shape(
    kernel: SamplingKernel, shape: SamplingShape, dtype: torch.dtype, device: torch.device, every_group: bool
) -> list[Timing]:
    """Rows for one shape and type: the kernel in both layouts (every_group adds each channels_per_thread), PyTorch."""
    moved = shape.bytes_moved(dtype.itemsize)
    count = copies_beyond_cache(moved, device)
    sets = []
    for number in range(count):
        volume = torch.randn(shape.volume_shape, device=device).to(dtype)
        sets.append((volume, renderer_grids(shape, device, number)))
    methods: dict[str, Callable[[], list[Callable[[], object]]]] = {
        "kernel, linear": lambda: _kernel_launches(kernel, sets, "linear", 0),
    }
    for group in (4, 8, 16):
        if every_group and group <= shape.channels and shape.channels > 4:
            methods[f"kernel, linear, {group} channels a thread"] = lambda group=group: _kernel_launches(
                kernel, sets, "linear", group
            )
    if shape.channels % 8 == 0:
        methods["kernel, channels last"] = lambda: _kernel_launches(kernel, sets, "channels_last", 0)
    methods["PyTorch grid_sample"] = lambda: _torch_launches(sets)
    rows = []
    for method, make in methods.items():
        launches = make()
        cold = graph_time_us(launches)
        warm = graph_time_us(launches[:1])
        single = single_time_us(launches[0])
        name = str(dtype).removeprefix("torch.")
        rows.append(Timing(shape.name, name, method, cold, warm, single, moved, moved / (cold * 1e-6)))
        del launches
    return rows
