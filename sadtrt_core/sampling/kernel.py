"""The sampling kernel by itself: the library it is launched from, and launches on pycuda's memory."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from sadtrt_core.engine.plugin import PluginLibrary, find_plugin, load_plugin
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY
from sadtrt_core.engine.plugin_library import BUILD_FOLDER, HOW_TO_BUILD, LIBRARY_VERSION
from sadtrt_core.engine.sampling_kernel import SamplingKernel, SamplingMode, sampling_problem
from sadtrt_core.engine.session import DeviceBuffer, active_context
from sadtrt_core.engine.tensorrt_api import tensorrt_module
from sadtrt_core.errors import Unavailable, UserError

CHANNEL_MULTIPLE = 8
"""Channels-last voxels hold a multiple of so many channels."""


def find_kernel() -> SamplingKernel | Unavailable:
    """The kernel library, or else a plugin library, which holds the same kernel; or why there is neither."""
    path = BUILD_FOLDER / KERNEL_LIBRARY
    if not path.exists():
        found = find_plugin()
        if not isinstance(found, PluginLibrary):
            return Unavailable(f"the sampling kernel is not built: {found.reason}")
        trt = tensorrt_module()
        if not isinstance(trt, Unavailable):
            try:
                # First, because 8.6's adaptor registers itself while the library loads, or never.
                load_plugin(found, trt)
            except UserError as error:
                return Unavailable(str(error))
        path = found.path
    try:
        kernel = SamplingKernel(path)
    except (OSError, AttributeError) as error:
        return Unavailable(f"{path} cannot be loaded ({error}); {HOW_TO_BUILD}")
    if kernel.version.split()[0] != LIBRARY_VERSION:
        return Unavailable(f"{path} has version {kernel.version}, {LIBRARY_VERSION} is expected; {HOW_TO_BUILD} again")
    return kernel


def kernel_absence(device: torch.device) -> str | None:
    """Why the kernel cannot be launched by itself here, in one sentence; None where it can."""
    if device.type != "cuda":
        return f"the sampling kernel runs on an NVIDIA GPU, not on {device.type}"
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: pip install pycuda"
    found = find_kernel()
    return found.reason if isinstance(found, Unavailable) else None


def pycuda_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory that pycuda allocated, filled with zeros and seen as a torch tensor."""
    index = device.index if device.index is not None else torch.cuda.current_device()
    with active_context(index):
        buffer = DeviceBuffer(shape, dtype)
    return torch.as_tensor(buffer, device=torch.device("cuda", index)).zero_()


class KernelLaunch:
    """One sampling, launched on torch's current stream with each call; the tensors are copies in pycuda's memory.

    `layout` is "linear" or "channels_last": then the volume, of a multiple of eight channels, is laid out beforehand,
    as in an engine whose other layers use that layout too.
    """

    def __init__(self, kernel: SamplingKernel, volume: Tensor, grid: Tensor, layout: str) -> None:
        channels = volume.shape[1]
        if layout == "channels_last" and channels % CHANNEL_MULTIPLE:
            raise ValueError(f"a channels-last volume has a multiple of {CHANNEL_MULTIPLE} channels, not {channels}")
        laid_out = volume.movedim(1, -1) if layout == "channels_last" else volume
        points = tuple(grid.shape[1:4])
        sizes = (*points, channels) if layout == "channels_last" else (channels, *points)
        self._kernel, self._layout = kernel, layout
        self._volume = pycuda_tensor(tuple(laid_out.shape), volume.dtype, volume.device).copy_(laid_out)
        self._grid = pycuda_tensor(tuple(grid.shape), grid.dtype, grid.device).copy_(grid)
        self._samples = pycuda_tensor((grid.shape[0], *sizes), volume.dtype, volume.device)
        name = str(volume.dtype).removeprefix("torch.")
        self._problem = sampling_problem(tuple(volume.shape), tuple(grid.shape), SamplingMode(), name, layout)
        size = kernel.workspace_bytes(self._problem)
        # As TensorRT lends the plugin one.
        self._workspace = pycuda_tensor((-(-size // 4),), torch.float32, volume.device) if size else None

    def __call__(self) -> None:
        volume, grid, samples = (tensor.data_ptr() for tensor in (self._volume, self._grid, self._samples))
        lent = (0, 0) if self._workspace is None else (self._workspace.data_ptr(), self._workspace.nbytes)
        self._kernel.launch(self._problem, volume, grid, samples, torch.cuda.current_stream().cuda_stream, lent)

    def samples(self) -> Tensor:
        """What the last call wrote, (N*k, C, D', H', W')."""
        return self._samples.movedim(-1, 1) if self._layout == "channels_last" else self._samples
