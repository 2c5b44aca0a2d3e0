"""The operators' kernels without TensorRT: the library that holds them, and launches of its C functions by ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sadtrt_core.engine.plugin import BUILD_FOLDER, HOW_TO_BUILD, LIBRARY_VERSION, built_plugin, load_plugin
from sadtrt_core.engine.plugin_build import KERNEL_LIBRARY
from sadtrt_core.engine.tensorrt_api import tensorrt_module
from sadtrt_core.errors import BuildError, Unavailable, UserError

FEATURE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""SADTRT_FLOAT32, ... of plugin/common/library.h."""

_MESSAGE_BYTES = 512


def load_kernels(path: Path) -> ctypes.CDLL:
    """A kernel or plugin library. Raises UserError for one that cannot be loaded or is of another version."""
    try:
        kernels = ctypes.CDLL(str(path))
        version = kernels_version(kernels)
    except (OSError, AttributeError) as error:
        raise UserError(f"{path} cannot be loaded ({error}); {HOW_TO_BUILD}") from error
    if version.split()[0] != LIBRARY_VERSION:
        raise UserError(f"{path} has version {version}, {LIBRARY_VERSION} is expected; {HOW_TO_BUILD} again")
    return kernels


def find_kernels() -> ctypes.CDLL:
    """The kernel library, or else a plugin library, which holds the same kernels. Raises UserError for neither."""
    path = BUILD_FOLDER / KERNEL_LIBRARY
    if not path.exists():
        plugin, trt = built_plugin(), tensorrt_module()
        if not isinstance(trt, Unavailable):
            # First, because 8.6's adaptor registers itself while the library loads, or never.
            load_plugin(plugin, trt)
        path = plugin.path
    return load_kernels(path)


def kernels_version(kernels: ctypes.CDLL) -> str:
    """Version and kind of a kernel or plugin library, such as "1.1.0 kernel". AttributeError for any other library."""
    kernels.sadtrt_plugin_version.restype = ctypes.c_char_p
    version: bytes = kernels.sadtrt_plugin_version()
    return version.decode()


def kernels_absence(device: torch.device) -> str | None:
    """Why no kernel can be launched by itself here, in one sentence; None where one can."""
    if device.type != "cuda":
        return f"the kernels run on an NVIDIA GPU, not on {device.type}"
    try:
        find_kernels()
    except UserError as error:
        return str(error)
    return None


class KernelLaunch:
    """One launch of a library's C function, with the tensors that it reads and writes."""

    def __init__(
        self, kernels: ctypes.CDLL, name: str, problem: ctypes.Structure, result: Tensor, **tensors: Tensor | None
    ) -> None:
        """`problem` is the function's struct, whose fields of the `tensors`' names are set to their addresses.

        `result` is what a call gives: one of them, or a view of it in the operator's own shape.
        """
        self.problem, self.result, self.tensors = problem, result, tensors
        for field, tensor in tensors.items():
            setattr(problem, field, None if tensor is None else tensor.data_ptr())
        self._on_gpu = any(tensor is not None and tensor.is_cuda for tensor in tensors.values())
        self._function = kernels[name]
        self._function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64]
        self._function.restype = ctypes.c_int32

    def __call__(self) -> Tensor:
        """Queue it on torch's current stream and give the result at once; on the host it has run by then.

        Raises BuildError with the library's sentence when the problem is refused or CUDA reports an error.
        """
        stream = torch.cuda.current_stream().cuda_stream if self._on_gpu else None
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        if self._function(ctypes.byref(self.problem), stream, message, _MESSAGE_BYTES):
            raise BuildError(message.value.decode())
        return self.result


def workspace_bytes(kernels: ctypes.CDLL, name: str, problem: ctypes.Structure) -> int:
    """How many bytes of workspace can make a problem of the C function `name` faster; 0 when none can."""
    function = kernels[f"{name}_workspace"]
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int64
    return int(function(ctypes.byref(problem)))
