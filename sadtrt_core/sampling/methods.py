"""The ways to sample a volume that are timed against each other, as one registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnxruntime
import torch
from torch import Tensor

from sadtrt_core.engine.build import BuildOptions, Say
from sadtrt_core.errors import Unavailable
from sadtrt_core.sampling.engine import GraphSampler, SamplerEngine, sampler_engine_absence, sampler_graph
from sadtrt_core.sampling.kernel import CHANNEL_MULTIPLE, KernelLaunch, find_kernel, kernel_absence
from sadtrt_core.sampling.shapes import SamplingShape
from sadtrt_core.sampling.torch_forms import TORCH_FORMS, TorchForm, TorchLaunch


@dataclass(frozen=True)
class Setting:
    """What is sampled and where. `dtype` is the features' type; the grid is fp32."""

    shape: SamplingShape
    dtype: torch.dtype
    device: torch.device
    cache: Path
    options: BuildOptions
    say: Say = lambda line: None


class SamplingLaunch(Protocol):
    """One sampling on tensors of its own: a call enqueues it on torch's current stream and returns."""

    def __call__(self) -> None:
        """Sample once."""

    def samples(self) -> Tensor:
        """What the last call gave, (N*k, C, D', H', W')."""


#: Makes a launch of a volume and a grid on the setting's device.
Launcher = Callable[[Tensor, Tensor], SamplingLaunch]
Opener = Callable[[Setting], "contextlib.AbstractContextManager[Launcher]"]


@dataclass(frozen=True)
class SamplingMethod:
    """One contestant. `runner` is the suite's runner that it belongs to, for `--runner`.

    `open` gives a launcher and frees what it held when left. `applies` says for which shapes and types it is a
    method of its own. `exact_coordinates` is False where the grid is rounded to the features' type.
    """

    name: str
    runner: str
    absence: Callable[[Setting], str | None]
    open: Opener
    applies: Callable[[SamplingShape, torch.dtype], bool] = lambda shape, dtype: True
    exact_coordinates: bool = True
    grid_sample: GraphSampler | None = None


def _torch(form: TorchForm) -> Opener:
    @contextlib.contextmanager
    def open_torch(setting: Setting) -> Iterator[Launcher]:
        yield lambda volume, grid: TorchLaunch(form, volume, grid)

    return open_torch


class _EngineLaunch:
    def __init__(self, engine: SamplerEngine, shape: SamplingShape, volume: Tensor, grid: Tensor) -> None:
        self._engine, self._volume, self._grid = engine, volume, grid
        self._samples = volume.new_zeros(shape.samples_shape)

    def __call__(self) -> None:
        self._engine.launch(self._volume, self._grid, self._samples)

    def samples(self) -> Tensor:
        return self._samples


def _engine(grid_sample: GraphSampler) -> Opener:
    @contextlib.contextmanager
    def open_engine(setting: Setting) -> Iterator[Launcher]:
        engine = SamplerEngine(setting.shape, setting.dtype, grid_sample, setting.cache, setting.options, setting.say)
        try:
            yield lambda volume, grid: _EngineLaunch(engine, setting.shape, volume, grid)
        finally:
            torch.cuda.synchronize(setting.device)
            engine.close()

    return open_engine


def _kernel(layout: str) -> Opener:
    @contextlib.contextmanager
    def open_kernel(setting: Setting) -> Iterator[Launcher]:
        kernel = find_kernel()
        if isinstance(kernel, Unavailable):
            raise RuntimeError(kernel.reason)
        yield lambda volume, grid: KernelLaunch(kernel, volume, grid, layout)

    return open_kernel


class _OnnxRuntimeLaunch:
    def __init__(self, session: onnxruntime.InferenceSession, volume: Tensor, grid: Tensor) -> None:
        self._session = session
        self._inputs = {"volume": volume.numpy(), "grid": grid.numpy()}
        self._samples: Tensor | None = None

    def __call__(self) -> None:
        (samples,) = self._session.run(["samples"], self._inputs)
        self._samples = torch.from_numpy(samples)

    def samples(self) -> Tensor:
        assert self._samples is not None, "samples before a call"
        return self._samples


@contextlib.contextmanager
def _onnxruntime(setting: Setting) -> Iterator[Launcher]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = sampler_graph(setting.shape, setting.dtype, "native").SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    yield lambda volume, grid: _OnnxRuntimeLaunch(session, volume, grid)


def _torch_absence(setting: Setting) -> str | None:
    if setting.device.type != "cuda" and setting.dtype != torch.float32:
        return "half is timed on a GPU: a CPU computes it in fp32 and rounds"
    return None


def _onnxruntime_absence(setting: Setting) -> str | None:
    if setting.device.type == "cuda":
        return "ONNX Runtime runs on the CPU: on a GPU the native rewriting is timed as an engine"
    return _torch_absence(setting)


SAMPLING_METHODS: dict[str, SamplingMethod] = {
    method.name: method
    for method in (
        SamplingMethod("kernel", "tensorrt", lambda s: kernel_absence(s.device), _kernel("linear")),
        SamplingMethod(
            "kernel, channels last",
            "tensorrt",
            lambda s: kernel_absence(s.device),
            _kernel("channels_last"),
            applies=lambda shape, dtype: shape.channels % CHANNEL_MULTIPLE == 0,
        ),
        SamplingMethod(
            "engine with the plugin",
            "tensorrt",
            lambda s: sampler_engine_absence("plugin", s.device),
            _engine("plugin"),
            grid_sample="plugin",
        ),
        SamplingMethod(
            "engine, native rewriting",
            "tensorrt",
            lambda s: sampler_engine_absence("native", s.device),
            _engine("native"),
            grid_sample="native",
        ),
        *(
            SamplingMethod(
                form.name,
                "pytorch",
                _torch_absence,
                _torch(form),
                applies=form.applies,
                exact_coordinates=form.exact_coordinates,
            )
            for form in TORCH_FORMS
        ),
        SamplingMethod(
            "ONNX Runtime, native rewriting", "onnxruntime", _onnxruntime_absence, _onnxruntime, grid_sample="native"
        ),
    )
}
