"""Loads PTX through the driver and launches its kernels: needs no CUDA toolkit, the driver compiles for its GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch


class PtxModule:
    """PTX in torch's CUDA context of the current device; every parameter of its kernels is a 64-bit integer.

    Raises RuntimeError with the driver's words, OSError where there is no driver.
    """

    def __init__(self, ptx: bytes, driver: Any = None) -> None:
        torch.cuda.init()
        torch.cuda.synchronize()  # Makes the primary context current in this thread.
        self._driver = driver or ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._check("cuModuleLoadData", ctypes.byref(self._module), ctypes.c_char_p(ptx))

    def load(self, *names: str) -> None:
        """Look kernels up, so that a wrong name is told before anything is measured."""
        for name in names:
            function = ctypes.c_void_p()
            self._check("cuModuleGetFunction", ctypes.byref(function), self._module, ctypes.c_char_p(name.encode()))
            self._functions[name] = function

    def launch(self, name: str, stream: torch.cuda.Stream, *parameters: int, blocks: int = 1) -> None:
        """Enqueue a kernel that was loaded, with one thread a block."""
        values = [ctypes.c_uint64(value) for value in parameters]
        # The driver copies the parameters before it returns.
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = [ctypes.c_uint(size) for size in (blocks, 1, 1, 1, 1, 1, 0)]
        handle = ctypes.c_void_p(stream.cuda_stream)
        self._check("cuLaunchKernel", self._functions[name], *sizes, handle, pointers, None)

    def _check(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._driver, name)(*arguments))
        if code:
            words = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(words))
            raise RuntimeError(f"{name} failed with error {code}: {(words.value or b'unknown').decode()}")
