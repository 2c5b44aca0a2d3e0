"""A kernel that takes a known time by the GPU's own timer, launched through the driver: needs no CUDA toolkit."""

from __future__ import annotations

from typing import Any

import torch
from ptx_module import PtxModule

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
    """The kernel in torch's CUDA context of the current device. Raises as PtxModule does."""

    def __init__(self, driver: Any = None) -> None:
        self._module = PtxModule(PTX, driver)
        self._module.load("spin")

    def launch(self, stream: torch.cuda.Stream, nanoseconds: int) -> None:
        """Enqueue one thread that spins for so long."""
        self._module.launch("spin", stream, nanoseconds)
