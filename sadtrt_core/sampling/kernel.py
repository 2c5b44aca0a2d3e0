"""The GridSample3D kernel without TensorRT: the library that holds it, and launches on torch tensors.

Binds the C interface of plugin/grid_sample_3d/grid_sample_3d.h with ctypes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sadtrt_core.engine.plugin import BUILD_FOLDER, HOW_TO_BUILD, LIBRARY_VERSION, built_plugin, load_plugin
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY
from sadtrt_core.engine.tensorrt_api import tensorrt_module
from sadtrt_core.errors import BuildError, Unavailable, UserError

INTERPOLATIONS = {"bilinear": 0, "nearest": 1}
"""Interpolation names of torch.nn.functional.grid_sample (for volumes "bilinear" is trilinear)."""
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}
FEATURE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LAYOUTS = {"linear": 0, "channels_last": 1}
PACKINGS = {"auto": 0, "never": 1, "always": 2}
"""Whether a workspace is filled with a packed volume: as the launcher thinks best, never, or wherever it can be."""

_MESSAGE_BYTES = 512
_POINTERS = ("volume", "grid", "output", "workspace")
_VOLUME_SIZES = ("volume_batch", "channels", "depth", "height", "width")
_GRID_SIZES = ("grid_batch", "out_depth", "out_height", "out_width")
_CHOICES = ("feature_type", "layout", "interpolation", "padding", "align_corners")
_TUNING = ("channels_per_thread", "wide_offsets", "packing")


class SamplingProblem(ctypes.Structure):
    """The struct SadtrtGridSample3D: pointers are integers, sizes count elements."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("workspace_bytes", *_VOLUME_SIZES, *_GRID_SIZES)),
        *((name, ctypes.c_int32) for name in (*_CHOICES, *_TUNING)),
    ]


@dataclass(frozen=True)
class SamplingMode:
    """How to sample, in the words of torch.nn.functional.grid_sample."""

    interpolation: str = "bilinear"
    padding: str = "zeros"
    align_corners: bool = False

    def __post_init__(self) -> None:
        for value, known in ((self.interpolation, INTERPOLATIONS), (self.padding, PADDINGS)):
            if value not in known:
                raise ValueError(f"sampling mode {value!r} is unknown: expected one of {', '.join(known)}")


def sampling_problem(
    volume_shape: tuple[int, ...],
    grid_shape: tuple[int, ...],
    mode: SamplingMode,
    dtype: torch.dtype = torch.float32,
    layout: str = "linear",
    channels_per_thread: int = 0,
    wide_offsets: bool = False,
    packing: str = "auto",
) -> SamplingProblem:
    """Describe one launch; the pointers are left empty.

    volume_shape is (N, C, D, H, W) and grid_shape (N*k, D', H', W', 3) whatever the layout in memory. Raises
    ValueError for shapes of another rank and for unknown names; sizes are checked by the library.
    """
    if len(volume_shape) != 5 or len(grid_shape) != 5 or grid_shape[-1] != 3:
        raise ValueError(
            f"a volume (N, C, D, H, W) and a grid (N*k, D', H', W', 3) are expected, not {tuple(volume_shape)} and "
            f"{tuple(grid_shape)}"
        )
    if dtype not in FEATURE_TYPES or layout not in LAYOUTS or packing not in PACKINGS:
        raise ValueError(f"{dtype} in layout {layout!r} with packing {packing!r} is unknown to the kernel")
    return SamplingProblem(
        **dict(zip(_VOLUME_SIZES, volume_shape, strict=True)),
        **dict(zip(_GRID_SIZES, grid_shape[:-1], strict=True)),
        feature_type=FEATURE_TYPES[dtype],
        layout=LAYOUTS[layout],
        interpolation=INTERPOLATIONS[mode.interpolation],
        padding=PADDINGS[mode.padding],
        align_corners=int(mode.align_corners),
        channels_per_thread=channels_per_thread,
        wide_offsets=int(wide_offsets),
        packing=PACKINGS[packing],
    )


class SamplingKernel:
    """The CUDA launcher of a built kernel or plugin library. Raises OSError when the library cannot be loaded."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._launch = library.sadtrt_grid_sample_3d
        self._launch.argtypes = [ctypes.POINTER(SamplingProblem), ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64]
        self._launch.restype = ctypes.c_int32
        self._workspace = library.sadtrt_grid_sample_3d_workspace
        self._workspace.argtypes = [ctypes.POINTER(SamplingProblem)]
        self._workspace.restype = ctypes.c_int64
        library.sadtrt_plugin_version.restype = ctypes.c_char_p
        self.version: str = library.sadtrt_plugin_version().decode()

    def workspace_bytes(self, problem: SamplingProblem) -> int:
        """How many bytes of workspace can make the problem faster; 0 when none can."""
        return int(self._workspace(ctypes.byref(problem)))

    def launch(self, problem: SamplingProblem, stream: int = 0) -> None:
        """Queue one sampling on a CUDA stream (its handle; 0 is the default stream) and return at once.

        The problem's pointers are device addresses of contiguous tensors of its shapes; no other launch uses its
        workspace meanwhile. Raises SamplingError with the library's sentence when the problem is refused or CUDA
        reports an error.
        """
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self._launch(ctypes.byref(problem), stream, message, _MESSAGE_BYTES):
            raise BuildError(message.value.decode())


def to_channels_last(volume: Tensor) -> Tensor:
    """(N, C, ...) as (N, ..., C rounded up to 8): the kernel's channels-last layout, TensorRT's kDHWC8."""
    channels = volume.shape[1]
    padded = volume.new_zeros((volume.shape[0], *volume.shape[2:], -(-channels // 8) * 8))
    padded[..., :channels] = volume.movedim(1, -1)
    return padded


class KernelLaunch:
    """One sampling with memory of its own; a call queues it on torch's current stream and gives the samples.

    `volume` is (N, C, D, H, W), `grid` (N*k, D', H', W', 3) in fp32, the samples (N*k, C, D', H', W') in the volume's
    type. In layout "channels_last" the volume is laid out beforehand, as in an engine whose other layers use it too.
    Tensors are made where `volume` is and copied to `device`; samples that the kernel does not write are NaN.
    Packing "never" does without a workspace; else one of the size that is of use is lent, or `workspace`.
    """

    def __init__(
        self,
        kernel: SamplingKernel,
        volume: Tensor,
        grid: Tensor,
        mode: SamplingMode = SamplingMode(),
        layout: str = "linear",
        packing: str = "auto",
        wide_offsets: bool = False,
        channels_per_thread: int = 0,
        workspace: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._device = torch.device(volume.device if device is None else device)
        shapes = tuple(volume.shape), tuple(grid.shape)
        problem = sampling_problem(*shapes, mode, volume.dtype, layout, channels_per_thread, wide_offsets, packing)
        points, channels = tuple(grid.shape[1:4]), volume.shape[1]
        if layout == "channels_last":
            volume = to_channels_last(volume)
            samples = volume.new_full((grid.shape[0], *points, volume.shape[-1]), float("nan")).to(self._device)
            self.samples = samples[..., :channels].movedim(-1, 1)
        else:
            samples = volume.new_full((grid.shape[0], channels, *points), float("nan")).to(self._device)
            self.samples = samples
        size = kernel.workspace_bytes(problem) if packing != "never" else 0
        if workspace is None and size:
            workspace = torch.empty(size, dtype=torch.uint8, device=self._device)
        self._kernel, self._problem, self.workspace = kernel, problem, workspace
        self._inputs = volume.contiguous().to(self._device), grid.contiguous().to(self._device)
        problem.volume, problem.grid = (tensor.data_ptr() for tensor in self._inputs)
        problem.output = samples.data_ptr()
        if workspace is not None:
            problem.workspace, problem.workspace_bytes = workspace.data_ptr(), workspace.nbytes

    def __call__(self) -> Tensor:
        on_gpu = self._device.type == "cuda"
        self._kernel.launch(self._problem, torch.cuda.current_stream().cuda_stream if on_gpu else 0)
        return self.samples


def find_kernel() -> SamplingKernel | Unavailable:
    """The kernel library, or else a plugin library, which holds the same kernel; or why there is neither."""
    path = BUILD_FOLDER / KERNEL_LIBRARY
    try:
        if not path.exists():
            plugin, trt = built_plugin(), tensorrt_module()
            if not isinstance(trt, Unavailable):
                # First, because 8.6's adaptor registers itself while the library loads, or never.
                load_plugin(plugin, trt)
            path = plugin.path
        kernel = SamplingKernel(path)
    except UserError as error:
        return Unavailable(str(error))
    except (OSError, AttributeError) as error:
        return Unavailable(f"{path} cannot be loaded ({error}); {HOW_TO_BUILD}")
    if kernel.version.split()[0] != LIBRARY_VERSION:
        return Unavailable(f"{path} has version {kernel.version}, {LIBRARY_VERSION} is expected; {HOW_TO_BUILD} again")
    return kernel


def kernel_absence(device: torch.device) -> str | None:
    """Why the kernel cannot be launched by itself here, in one sentence; None where it can."""
    if device.type != "cuda":
        return f"the sampling kernel runs on an NVIDIA GPU, not on {device.type}"
    found = find_kernel()
    return found.reason if isinstance(found, Unavailable) else None
