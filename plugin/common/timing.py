"""What is timed of an operator, and how launches of each way to compute it are made: for plugin/check.py and bench/."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sadtrt_core.engine.kernels import KernelLaunch

EAGER = "PyTorch, channels last"
COMPILED = "PyTorch, compiled"


@dataclass(frozen=True)
class Timing:
    """An operator at one shape and type.

    `make(device, seed)` gives a case, `kernels` make our launches of one, by the method's name, and `excess` says which
    share of the allowed difference a result has. `function(*arguments(case, dtype))` is the same in PyTorch, in
    channels last where tensors have channels: its outputs, the compared one last. `bytes_moved` counts every byte that
    has to be read or written once.
    """

    operator: str
    shape: str
    dtype: torch.dtype
    bytes_moved: int
    make: Callable[[torch.device, int], Any]
    kernels: Mapping[str, Callable[[ctypes.CDLL, Any], KernelLaunch]]
    excess: Callable[[Any, Tensor], float]
    function: Callable[..., tuple[Tensor, ...]]
    arguments: Callable[[Any, torch.dtype], tuple[Tensor | None, ...]]

    @property
    def methods(self) -> tuple[str, ...]:
        """Our kernels first, then PyTorch's forms."""
        return (*self.kernels, EAGER, COMPILED)

    def launcher(self, method: str, find_kernels: Callable[[], ctypes.CDLL]) -> Callable[[Any], Callable[[], Tensor]]:
        """What makes a launch of a case: a call queues it on the current stream and gives the result."""
        if method in self.kernels:
            return partial(self.kernels[method], find_kernels())
        function = self.function
        if method == COMPILED:
            # One function of one shape at a time: past eight shapes torch.compile gives up.
            torch.compiler.reset()
            function = torch.compile(function, dynamic=False, fullgraph=True)
        return partial(self._torch_launch, function)

    def _torch_launch(self, function: Callable[..., tuple[Tensor, ...]], case: Any) -> Callable[[], Tensor]:
        arguments = self.arguments(case, self.dtype)
        outputs: tuple[Tensor, ...] = ()

        def launch() -> Tensor:
            # Kept, so that every launch of a CUDA graph writes into memory of its own, as the kernels do.
            nonlocal outputs
            outputs = function(*arguments)
            return outputs[-1]

        return launch
