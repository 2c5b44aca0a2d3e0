"""Times of the sampling kernel and of PyTorch's grid_sample at the renderer's shapes, with CUDA events.

Each time is taken twice. "cold": the launches of one CUDA graph go round over so many copies of all tensors that the
device's L2 cache holds none of what is read next. "warm": every launch uses the same tensors, so that what fits stays
in L2, as it would for a layer that has just been computed. Both are the time of a whole graph divided by its launches.
"single" is one launch between two events, launch overhead included, on warm tensors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from kernel_calls import call, empty_output
from sampling_cases import to_channels_last

from sadtrt_core.engine.sampling_kernel import SamplingKernel, SamplingMode

MODE = SamplingMode("bilinear", "zeros", False)
REPLAYS = 40


@dataclass(frozen=True)
class Shape:
    """Volumes (volumes, channels, 16, size, size) sampled with grids (grids, 16, size, size, 3)."""

    name: str
    channels: int
    size: int
    volumes: int
    grids: int

    def bytes_moved(self, feature_bytes: int) -> int:
        """Every byte once: the volumes and the grids read, the output written."""
        voxels = self.volumes * 16 * self.size**2
        points = self.grids * 16 * self.size**2
        return voxels * self.channels * feature_bytes + points * (12 + self.channels * feature_bytes)


SHAPES = (
    Shape("16 grids, 4 channels, 256 px", 4, 64, 1, 16),
    Shape("1 grid, 32 channels, 256 px", 32, 64, 1, 1),
    Shape("16 grids, 4 channels, 512 px", 4, 128, 1, 16),
    Shape("1 grid, 32 channels, 512 px", 32, 128, 1, 1),
    Shape("4 x 16 grids, 4 channels, 256 px", 4, 64, 4, 64),
    Shape("8 x 1 grid, 32 channels, 256 px", 32, 64, 8, 8),
)
"""The renderer's two samplers at both picture sizes, and in batches of 4 and 8."""


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


def renderer_grids(shape: Shape, device: torch.device, seed: int) -> torch.Tensor:
    """Grids like the renderer's: the identity under a small rotation and shift for each, plus smooth local motion."""
    generator = torch.Generator(device).manual_seed(seed)
    axes = [torch.linspace(-1, 1, size, device=device) for size in (16, shape.size, shape.size)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    identity = torch.stack((x, y, z), dim=-1)
    turn = torch.randn((shape.grids, 3, 3), generator=generator, device=device) * 0.05
    shift = torch.randn((shape.grids, 1, 1, 1, 3), generator=generator, device=device) * 0.1
    coarse = torch.randn((shape.grids, 3, 4, 8, 8), generator=generator, device=device) * 0.03
    local = torch.nn.functional.interpolate(coarse, size=identity.shape[:3], mode="trilinear", align_corners=True)
    turned = torch.einsum("dhwi,kij->kdhwj", identity, torch.eye(3, device=device) + turn)
    return (turned + shift + local.movedim(1, -1)).contiguous()


def copy_rate(device: torch.device) -> float:
    """Bytes read plus bytes written a second by a device copy of 1 GiB: what this device's memory gives."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _median_graph_time([lambda: target.copy_(source)], 4) * 1e-6
    return 2 * source.numel() / seconds


def _median_graph_time(launches: list[Callable[[], object]], at_least: int) -> float:
    """Microseconds of one launch: median over replays of a CUDA graph that goes round over launches."""
    rounds = -(-at_least // len(launches))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for launch in launches[:2]:
            launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for launch in launches:
                launch()
    times = []
    for replay in range(REPLAYS + 5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if replay >= 5:
            times.append(start.elapsed_time(end) * 1e3 / (rounds * len(launches)))
    return statistics.median(times)


def _median_single_time(launch: Callable[[], object]) -> float:
    times = []
    for attempt in range(REPLAYS + 10):
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        launch()
        end.record()
        end.synchronize()
        if attempt >= 10:
            times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


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
    kernel: SamplingKernel, shape: Shape, dtype: torch.dtype, device: torch.device, every_group: bool
) -> list[Timing]:
    """Rows for one shape and type: the kernel in both layouts (every_group adds each channels_per_thread), PyTorch."""
    moved = shape.bytes_moved(dtype.itemsize)
    l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    count = max(2, min(40, -(-3 * l2_bytes // moved)))
    sets = []
    for number in range(count):
        volume = torch.randn((shape.volumes, shape.channels, 16, shape.size, shape.size), device=device).to(dtype)
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
        cold = _median_graph_time(launches, 20)
        warm = _median_graph_time(launches[:1], 20)
        single = _median_single_time(launches[0])
        name = str(dtype).removeprefix("torch.")
        rows.append(Timing(shape.name, name, method, cold, warm, single, moved, moved / (cold * 1e-6)))
        del launches
    return rows
