"""ctypes binding to the C interface of plugin/grid_sample_3d.h: the GridSample3D kernel without TensorRT.

For benchmarks and checks that hold device pointers (torch, pycuda) and for the host reference in tests.
Needs the standard library only.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.errors import BuildError

INTERPOLATIONS = {"bilinear": 0, "nearest": 1}
"""Interpolation names of torch.nn.functional.grid_sample (for volumes "bilinear" is trilinear)."""
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}
FEATURE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
LAYOUTS = {"linear": 0, "channels_last": 1}
PACKINGS = {"auto": 0, "never": 1, "always": 2}
"""Whether a workspace is filled with a packed volume: as the launcher thinks best, never, or wherever it can be."""

_MESSAGE_BYTES = 512


class SamplingProblem(ctypes.Structure):
    """The struct SadtrtGridSample3D: pointers are integers, sizes count elements."""

    _fields_ = [
        ("volume", ctypes.c_void_p),
        ("grid", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("volume_batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("grid_batch", ctypes.c_int64),
        ("out_depth", ctypes.c_int64),
        ("out_height", ctypes.c_int64),
        ("out_width", ctypes.c_int64),
        ("feature_type", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("interpolation", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("align_corners", ctypes.c_int32),
        ("channels_per_thread", ctypes.c_int32),
        ("wide_offsets", ctypes.c_int32),
        ("packing", ctypes.c_int32),
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
    feature_type: str = "float32",
    layout: str = "linear",
    channels_per_thread: int = 0,
    wide_offsets: bool = False,
    packing: str = "auto",
) -> SamplingProblem:
    """Describe one launch; the pointers are left empty.

    volume_shape is (N, C, D, H, W) and grid_shape (N*k, Do, Ho, Wo, 3) whatever the layout in memory. Raises
    ValueError for shapes of another rank and for unknown names; sizes are checked by the library.
    """
    if len(volume_shape) != 5 or len(grid_shape) != 5 or grid_shape[-1] != 3:
        raise ValueError(
            f"a volume (N, C, D, H, W) and a grid (N*k, Do, Ho, Wo, 3) are expected, not {tuple(volume_shape)} and "
            f"{tuple(grid_shape)}"
        )
    if feature_type not in FEATURE_TYPES or layout not in LAYOUTS or packing not in PACKINGS:
        raise ValueError(
            f"feature type {feature_type!r} in layout {layout!r} with packing {packing!r} is unknown to the kernel"
        )
    return SamplingProblem(
        0,
        0,
        0,
        0,
        0,
        *volume_shape,
        *grid_shape[:-1],
        FEATURE_TYPES[feature_type],
        LAYOUTS[layout],
        INTERPOLATIONS[mode.interpolation],
        PADDINGS[mode.padding],
        int(mode.align_corners),
        channels_per_thread,
        int(wide_offsets),
        PACKINGS[packing],
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

    def launch(
        self,
        problem: SamplingProblem,
        volume: int,
        grid: int,
        output: int,
        stream: int = 0,
        workspace: tuple[int, int] = (0, 0),
    ) -> None:
        """Queue one sampling on a CUDA stream (its handle; 0 is the default stream) and return at once.

        volume, grid and output are device addresses of contiguous tensors of the problem's shapes; workspace is the
        address and size in bytes of memory that no other launch uses meanwhile, (0, 0) for none. Raises SamplingError
        with the library's sentence when the problem is refused or CUDA reports an error.
        """
        problem.volume, problem.grid, problem.output = volume, grid, output
        problem.workspace, problem.workspace_bytes = workspace
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self._launch(ctypes.byref(problem), stream, message, _MESSAGE_BYTES):
            raise BuildError(message.value.decode())


class HostSampling:
    """The host reference library: the kernel's index and weight functions on the CPU, fp32 in linear layout."""

    def __init__(self, path: Path) -> None:
        self._sample = ctypes.CDLL(str(path)).sadtrt_grid_sample_3d_host
        self._sample.argtypes = [ctypes.POINTER(SamplingProblem), ctypes.c_char_p, ctypes.c_int64]
        self._sample.restype = ctypes.c_int32

    def sample(self, problem: SamplingProblem, volume: int, grid: int, output: int) -> None:
        """Compute one sampling; arguments are host addresses. Raises SamplingError when the problem is refused."""
        problem.volume, problem.grid, problem.output = volume, grid, output
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self._sample(ctypes.byref(problem), message, _MESSAGE_BYTES):
            raise BuildError(message.value.decode())
