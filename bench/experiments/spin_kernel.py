"""A kernel that takes a known time by the GPU's own timer, launched through the driver: needs no CUDA toolkit."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

#: `%globaltimer` counts nanoseconds, whatever the clocks of the GPU do. The driver compiles this for the GPU it finds.
PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry spin(.param .u64 nanoseconds)
{
    .reg .pred %waiting;
    .reg .u64 %begin, %now, %wanted;
    ld.param.u64 %wanted, [nanoseconds];
    mov.u64 %begin, %globaltimer;
again:
    mov.u64 %now, %globaltimer;
    sub.u64 %now, %now, %begin;
    setp.lt.u64 %waiting, %now, %wanted;
    @%waiting bra again;
    ret;
}
\0"""


class SpinKernel:
    """Loads the kernel into torch's CUDA context of the current device. Raises RuntimeError with the driver's words."""

    def __init__(self, driver: Any = None) -> None:
        torch.cuda.init()
        torch.cuda.synchronize()  # Makes the primary context current in this thread.
        self._driver = driver or ctypes.CDLL("libcuda.so.1")
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check("cuModuleLoadData", ctypes.byref(self._module), ctypes.c_char_p(PTX))
        self._check("cuModuleGetFunction", ctypes.byref(self._function), self._module, ctypes.c_char_p(b"spin"))

    def launch(self, stream: torch.cuda.Stream, nanoseconds: int) -> None:
        """Enqueue one thread that spins for so long."""
        wanted = ctypes.c_uint64(nanoseconds)
        # The driver copies the parameters before it returns.
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(wanted))
        sizes = [ctypes.c_uint(size) for size in (1, 1, 1, 1, 1, 1, 0)]
        self._check("cuLaunchKernel", self._function, *sizes, ctypes.c_void_p(stream.cuda_stream), parameters, None)

    def _check(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._driver, name)(*arguments))
        if code:
            words = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(words))
            raise RuntimeError(f"{name} failed with error {code}: {(words.value or b'unknown').decode()}")
