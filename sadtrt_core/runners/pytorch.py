"""PyTorch as a runner: eager, captured as a CUDA graph, and torch.compile, on a GPU or a CPU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sadtrt_core.renderer.generator import DenseMotion, Generator, SpadeDecoder
from sadtrt_core.renderer.sampling import sample_in_half
from sadtrt_core.renderer.stages import call_stage, matrix_arithmetic, stage_module
from sadtrt_core.runners.base import Job, StageRunner

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
#: What a CPU lacks in a type, or has only in a form that takes minutes (half Conv3d).
_FLOAT32_ON_CPU: dict[torch.dtype, tuple[Any, ...]] = {
    torch.float16: (*_CONVOLUTIONS, F.avg_pool3d),
    torch.bfloat16: (F.avg_pool3d,),
}


class _Float32OnCpu(TorchFunctionMode):
    """Computes what a CPU lacks in half or bfloat16 in float32 and rounds the result, as tensor cores accumulate."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = args[0].dtype if args and isinstance(args[0], Tensor) else torch.float32
        if func in _FLOAT32_ON_CPU.get(kind, ()):
            args = tuple(a.float() if isinstance(a, Tensor) else a for a in args)
            kwargs = {k: v.float() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
            return func(*args, **kwargs).to(kind)
        return func(*args, **kwargs)


class _Float32Convolution(nn.Module):
    """A convolution in float32 on whatever type reaches it, autocast or not."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.convolution(x.float())


#: Modules whose weights autocast rounds to its type before it uses them.
_ROUNDED_BY_AUTOCAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
#: Memory formats with the channels innermost, by the number of axes of what has one.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
#: Calls before a CUDA graph is captured: cuDNN searches its algorithms in the first, which no capture may hold.
_CALLS_BEFORE_CAPTURE = 3


def _channels_last(tensor: Tensor) -> Tensor:
    """The same tensor with its channels innermost in memory, where it has a picture's or a volume's axes."""
    layout = _CHANNELS_LAST.get(tensor.dim())
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


class PyTorchRunner(StageRunner):
    """Eager PyTorch, `captured` as a CUDA graph, or `compiled` by torch.compile in a mode of its own.

    fp32 and tf32 run float32 weights, default does without touching a setting; fp16 and bf16 convert the module
    (`.half()`), coordinates included; fp16-mixed runs under autocast, which keeps sampling, softmax and sums in
    float32, on weights that are half already: autocast would round them anew in every call. Where the picture is kept,
    the convolution that makes it is float32 as well, weights included. Sums are float anyway: no convolution is parted
    for them.

    `channels_last` keeps weights and inputs with the channels innermost, which tensor cores read. A captured graph has
    inputs of its own, which `bind` fills, and is captured at the first call. torch.compile's `mode` is for a GPU; on a
    CPU its C++ code generator has none. All compiled modules of a process share one pool of CUDA graph memory and one
    cache of compiled code with a limited number of entries a function, and freeing one of them resets what the others
    compiled: they are measured singly.
    """

    def __init__(
        self,
        job: Job,
        compiled: bool = False,
        mode: str | None = None,
        channels_last: bool = False,
        captured: bool = False,
    ) -> None:
        super().__init__(job)
        self.one_at_a_time = compiled
        self._mode = mode if job.device.type == "cuda" else None
        self._channels_last, self._captured = channels_last, captured
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._module: nn.Module | None = None
        self._compiled = compiled
        self._autocast = job.precision.keep_coordinates and job.precision.compute != "float32"
        self._type = torch.float32 if self._autocast else job.precision.torch_type
        self._emulated = job.device.type == "cpu" and self._type in _FLOAT32_ON_CPU
        if self._emulated and self._type == torch.float16:
            self.notes = ("half convolutions are computed in float32 and rounded: a CPU has none of its own",)

    def activate(self) -> None:
        if self.job.device.type == "cuda":
            self.stream = torch.cuda.current_stream(self.job.device)
        # A copy, because converting a module changes it and the renderer is shared.
        original = stage_module(self.job.stage, self.job.renderer)
        self._module = copy.deepcopy(original).to(device=self.job.device, dtype=self._type).eval()
        if self._autocast:
            for part in self._module.modules():
                if isinstance(part, _ROUNDED_BY_AUTOCAST):
                    part.to(self.job.precision.torch_type)
        if self.job.precision.keep_picture:
            exact = iter([part.conv_img for part in original.modules() if isinstance(part, SpadeDecoder)])
            for part in self._module.modules():
                if isinstance(part, SpadeDecoder):
                    last = copy.deepcopy(next(exact)).to(self.job.device)
                    part.conv_img = _Float32Convolution(last)  # type: ignore[assignment]
        if self._channels_last:
            for weight in self._module.parameters():
                weight.data = _channels_last(weight.data)
        if self.job.precision.half_coordinates:
            for part in self._module.modules():
                if isinstance(part, (Generator, DenseMotion)):
                    part.sampler = sample_in_half
        if self._compiled:
            self._module = torch.compile(self._module, mode=self._mode, dynamic=False)  # type: ignore[assignment]

    def deactivate(self) -> None:
        self._module, self._inputs, self._outputs, self.stream, self._graph = None, (), (), None, None
        if self._compiled:
            torch.compiler.reset()  # Only now does the compiled graph let go of its memory.
        if self.job.device.type == "cuda":
            torch.cuda.empty_cache()

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        given = tuple(inputs[spec.name] for spec in self.job.inputs)
        if not self._captured:
            self._inputs = given
        elif not self._inputs:
            self._inputs = tuple(tensor.clone() for tensor in given)
        else:
            for own, tensor in zip(self._inputs, given, strict=True):
                own.copy_(tensor, non_blocking=True)

    def execute(self) -> None:
        if not self._captured:
            self._compute()
            return
        if self._graph is None:
            self._capture()
        assert self._graph is not None, "captured above"
        self._graph.replay()

    def _capture(self) -> None:
        beside = torch.cuda.Stream(self.job.device)
        beside.wait_stream(torch.cuda.current_stream(self.job.device))
        with torch.cuda.stream(beside):
            for _ in range(_CALLS_BEFORE_CAPTURE):
                self._compute()
        torch.cuda.current_stream(self.job.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        self._graph = graph

    def _compute(self) -> None:
        assert self._module is not None, "execute before activate"
        autocast = torch.autocast(self.job.device.type, self.job.precision.torch_type, enabled=self._autocast)
        arithmetic = matrix_arithmetic(self.job.precision.tf32, benchmark=True)
        settings = contextlib.nullcontext() if self.job.precision.as_shipped else arithmetic
        filled_in = _Float32OnCpu() if self._emulated else contextlib.nullcontext()
        with torch.inference_mode(), settings, autocast, filled_in:
            inputs = tuple(t.to(self._type) for t in self._inputs)
            if self._channels_last:
                inputs = tuple(map(_channels_last, inputs))
            if self._compiled:
                # Outputs live in the CUDA graph's memory until this call says that they are done with.
                torch.compiler.cudagraph_mark_step_begin()
            outputs = call_stage(self._module, inputs)
            if self._compiled:
                # Copied, because another compiled stage's call takes that memory back while a clip still reads these.
                outputs = tuple(output.clone() for output in outputs)
            self._outputs = tuple(t.float() for t in outputs)

    def fetch(self) -> dict[str, Tensor]:
        return {spec.name: tensor for spec, tensor in zip(self.job.outputs, self._outputs, strict=True)}


def reference_frames(
    job: Job,
    inputs: list[dict[str, Tensor]],
    dtype: torch.dtype = torch.float32,
    size: int | None = None,
    rendered: Callable[[int], None] = lambda _: None,
) -> list[Tensor]:
    """The job's first output for each of `inputs`, in `dtype` with TF32 off and deterministic algorithms.

    The reference that drift is measured against (float32), and what the reference itself is checked with (float64).
    Results are float32 (float64 where asked for) on the host. A generator may render pictures of another `size`;
    `rendered` is told the number of frames after each.
    """
    module = copy.deepcopy(stage_module(job.stage, job.renderer)).to(device=job.device, dtype=dtype).eval()
    if size is not None:
        module.set_picture_size(size)  # type: ignore[operator]
    frames: list[Tensor] = []
    with torch.inference_mode(), matrix_arithmetic(tf32=False, benchmark=False):
        for item in inputs:
            outputs = call_stage(module, tuple(item[spec.name].to(dtype) for spec in job.inputs))
            frames.append(outputs[0].cpu())
            rendered(len(frames))
    return frames
