"""Kernels that tell how fast a GPU's SMs, L2 cache, memory and front end are at this moment; no CUDA toolkit needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ptx_module import PtxModule

#: `ticks` reads both timers right after the nanosecond timer has moved on, at its begin and at its end: that timer may
#: count in steps of up to a microsecond, which would be 2% of 50 us. It stores its entry, then time and cycles twice.
#: `stamp` stores time and cycles for the SM it runs on. `chase` follows indices, each load waiting for the one before,
#: past the L1 cache, and stores time and cycles of the whole way and where it ended. `empty` does nothing.
PTX = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry ticks(.param .u64 answer, .param .u64 nanoseconds)
{
    .reg .pred %waiting;
    .reg .u64 %out, %wanted, %entry, %begin, %now, %spent, %first, %last;
    ld.param.u64 %out, [answer];
    cvta.to.global.u64 %out, %out;
    ld.param.u64 %wanted, [nanoseconds];
    mov.u64 %entry, %globaltimer;
edge:
    mov.u64 %begin, %globaltimer;
    setp.eq.u64 %waiting, %begin, %entry;
    @%waiting bra edge;
    mov.u64 %first, %clock64;
again:
    mov.u64 %now, %globaltimer;
    sub.u64 %spent, %now, %begin;
    setp.lt.u64 %waiting, %spent, %wanted;
    @%waiting bra again;
    mov.u64 %last, %clock64;
    st.global.u64 [%out], %entry;
    st.global.u64 [%out+8], %begin;
    st.global.u64 [%out+16], %first;
    st.global.u64 [%out+24], %now;
    st.global.u64 [%out+32], %last;
    ret;
}
.visible .entry stamp(.param .u64 answer)
{
    .reg .u32 %sm;
    .reg .u64 %out, %place, %now, %cycles;
    ld.param.u64 %out, [answer];
    cvta.to.global.u64 %out, %out;
    mov.u32 %sm, %smid;
    mul.wide.u32 %place, %sm, 16;
    add.u64 %place, %place, %out;
    mov.u64 %now, %globaltimer;
    mov.u64 %cycles, %clock64;
    st.global.v2.u64 [%place], {%now, %cycles};
    ret;
}
.visible .entry chase(.param .u64 answer, .param .u64 table, .param .u64 steps)
{
    .reg .pred %more;
    .reg .u32 %index;
    .reg .u64 %out, %links, %left, %place, %begin, %end, %first, %last, %where;
    ld.param.u64 %out, [answer];
    cvta.to.global.u64 %out, %out;
    ld.param.u64 %links, [table];
    cvta.to.global.u64 %links, %links;
    ld.param.u64 %left, [steps];
    mov.u32 %index, 0;
    mov.u64 %begin, %globaltimer;
    mov.u64 %first, %clock64;
next:
    mul.wide.u32 %place, %index, 4;
    add.u64 %place, %place, %links;
    ld.global.cg.u32 %index, [%place];
    sub.u64 %left, %left, 1;
    setp.ne.u64 %more, %left, 0;
    @%more bra next;
    cvt.u64.u32 %where, %index;
    st.global.u64 [%out+32], %where;
    mov.u64 %end, %globaltimer;
    mov.u64 %last, %clock64;
    st.global.u64 [%out], %begin;
    st.global.u64 [%out+8], %first;
    st.global.u64 [%out+16], %end;
    st.global.u64 [%out+24], %last;
    ret;
}
.visible .entry empty()
{
    ret;
}
\0"""

SM_SLOTS = 256
"""More SMs than any GPU has; their numbers need not be dense."""
ANSWERS = 5
"""64-bit integers that `ticks` and `chase` store."""


class ProbeKernels:
    """Launches the probes. Answers go into int64 tensors on the device, to be read when the stream is done."""

    def __init__(self, driver: Any = None) -> None:
        self._module = PtxModule(PTX, driver)
        self._module.load("ticks", "stamp", "chase", "empty")

    def ticks(self, stream: torch.cuda.Stream, answer: torch.Tensor, nanoseconds: int) -> None:
        """One thread that spins for so long; `answer` int64 (ANSWERS,), for `ticks_ghz`."""
        self._module.launch("ticks", stream, answer.data_ptr(), nanoseconds)

    def stamp(self, stream: torch.cuda.Stream, answer: torch.Tensor, blocks: int) -> None:
        """Time and cycles of the SMs that `blocks` blocks run on; `answer` int64 (SM_SLOTS, 2), for `clock_between`."""
        self._module.launch("stamp", stream, answer.data_ptr(), blocks=blocks)

    def chase(self, stream: torch.cuda.Stream, answer: torch.Tensor, table: torch.Tensor, steps: int) -> None:
        """Follow `steps` indices of `table` (int32); `answer` int64 (ANSWERS,), for `chase_ns`."""
        self._module.launch("chase", stream, answer.data_ptr(), table.data_ptr(), steps)

    def empty(self, stream: torch.cuda.Stream) -> None:
        """A kernel that does nothing."""
        self._module.launch("empty", stream)


def ticks_ghz(answers: np.ndarray) -> np.ndarray:
    """SM clock in GHz (cycles per ns) from answers of `ticks`, shape (..., ANSWERS)."""
    # Subtracted as integers, since floats do not hold nanoseconds since 1970.
    begin, first, end, last = (answers[..., place] for place in (1, 2, 3, 4))
    return (last - first) / (end - begin)


def clock_between(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float] | None:
    """What two stamps tell, each int64 (SM_SLOTS, 2): ms between them by the GPU's timer (median over SMs), and the
    median and the lowest SM's mean clock in GHz. None where no SM was stamped both times.
    """
    both = (before[:, 0] > 0) & (after[:, 0] > before[:, 0])
    if not both.any():
        return None
    spent = after[both] - before[both]
    clocks = spent[:, 1] / spent[:, 0]
    return float(np.median(spent[:, 0])) / 1e6, float(np.median(clocks)), float(clocks.min())


def chase_ns(answer: np.ndarray, steps: int) -> tuple[float, float]:
    """Nanoseconds and cycles of one load, from an answer of `chase`."""
    begin, first, end, last = (int(value) for value in answer[:4])
    return (end - begin) / steps, (last - first) / steps


def chain(size: int, seed: int = 0) -> np.ndarray:
    """int32 indices that lead through all 128-byte lines of a table of `size` bytes in random order and round again."""
    lines = np.random.default_rng(seed).permutation(size // 128).astype(np.int32)
    lines = np.roll(lines, -int(np.flatnonzero(lines == 0)[0]))  # The way begins at index 0.
    table = np.zeros(size // 4, dtype=np.int32)
    table[lines * 32] = np.roll(lines, -1) * 32
    return table
