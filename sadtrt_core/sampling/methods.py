"""The ways to sample a volume that are timed against each other, as one registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import onnxruntime
import torch
from rich.console import Console
from torch import Tensor

from sadtrt_core.benchmark import build_engines
from sadtrt_core.errors import Unavailable
from sadtrt_core.sampling.engine import (
    GraphSampler,
    SamplerEngine,
    Setting,
    sampler_engine_absence,
    sampler_graph,
    sampler_job,
)
from sadtrt_core.sampling.kernel import KernelLaunch, find_kernel, kernel_absence
from sadtrt_core.sampling.shapes import SamplingShape
from sadtrt_core.sampling.torch_forms import TORCH_FORMS, TorchForm, TorchLaunch

#: One sampling on tensors of its own: a call enqueues it on torch's current stream and gives (N*k, C, D', H', W').
Launch = Callable[[], Tensor]
#: Makes a launch of a volume and a grid on the setting's device.
Launcher = Callable[[Tensor, Tensor], Launch]
Opener = Callable[[Setting], "contextlib.AbstractContextManager[Launcher]"]


@dataclass(frozen=True)
class SamplingMethod:
    """One way to sample. `runner` is the runner that it belongs to, for `--runner`.

    `open` gives a launcher and frees it when left. `applies` says for which shapes and types it is a method of
    its own. `exact_coordinates` is False where the grid is rounded to the features' type.
    """

    name: str
    runner: str
    absence: Callable[[Setting], str | None]
    open: Opener
    applies: Callable[[SamplingShape, torch.dtype], bool] = lambda shape, dtype: True
    exact_coordinates: bool = True
    grid_sample: GraphSampler | None = None


@contextlib.contextmanager
def _open_torch(form: TorchForm, setting: Setting) -> Iterator[Launcher]:
    yield partial(TorchLaunch, form)


@contextlib.contextmanager
def _open_engine(grid_sample: GraphSampler, setting: Setting) -> Iterator[Launcher]:
    engine = SamplerEngine(setting, grid_sample)

    def launcher(volume: Tensor, grid: Tensor) -> Launch:
        samples = volume.new_zeros(setting.shape.samples_shape)

        def launch() -> Tensor:
            engine.launch(volume, grid, samples)
            return samples

        return launch

    try:
        yield launcher
    finally:
        torch.cuda.synchronize(setting.device)
        engine.close()


@contextlib.contextmanager
def _open_kernel(layout: str, packing: str, setting: Setting) -> Iterator[Launcher]:
    kernel = find_kernel()
    if isinstance(kernel, Unavailable):
        raise RuntimeError(kernel.reason)
    yield lambda volume, grid: KernelLaunch(kernel, volume, grid, layout=layout, packing=packing)


@contextlib.contextmanager
def _open_onnxruntime(setting: Setting) -> Iterator[Launcher]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = sampler_graph(setting.shape, setting.dtype, "native").SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def launcher(volume: Tensor, grid: Tensor) -> Launch:
        inputs = {"volume": volume.numpy(), "grid": grid.numpy()}
        return lambda: torch.from_numpy(session.run(["samples"], inputs)[0])

    yield launcher


def _kernel_absence(setting: Setting) -> str | None:
    return kernel_absence(setting.device)


def _torch_absence(setting: Setting) -> str | None:
    if setting.device.type != "cuda" and setting.dtype != torch.float32:
        return "half is timed on a GPU: a CPU computes it in fp32 and rounds"
    return None


def _onnxruntime_absence(setting: Setting) -> str | None:
    if setting.device.type == "cuda":
        return "ONNX Runtime runs on the CPU: on a GPU the native rewriting is timed as an engine"
    return _torch_absence(setting)


def _engine_method(name: str, grid_sample: GraphSampler) -> SamplingMethod:
    absence, opener = partial(sampler_engine_absence, grid_sample), partial(_open_engine, grid_sample)
    return SamplingMethod(name, "tensorrt", absence, opener, grid_sample=grid_sample)


def _torch_method(form: TorchForm) -> SamplingMethod:
    opener = partial(_open_torch, form)
    return SamplingMethod(form.name, "pytorch", _torch_absence, opener, form.applies, form.exact_coordinates)


SAMPLING_METHODS: dict[str, SamplingMethod] = {
    method.name: method
    for method in (
        SamplingMethod("kernel", "tensorrt", _kernel_absence, partial(_open_kernel, "linear", "auto")),
        SamplingMethod("kernel, no workspace", "tensorrt", _kernel_absence, partial(_open_kernel, "linear", "never")),
        SamplingMethod(
            "kernel, channels last",
            "tensorrt",
            _kernel_absence,
            partial(_open_kernel, "channels_last", "auto"),
            applies=lambda shape, dtype: shape.channels % 8 == 0,
        ),
        _engine_method("engine with the plugin", "plugin"),
        _engine_method("engine, native rewriting", "native"),
        *(_torch_method(form) for form in TORCH_FORMS),
        SamplingMethod(
            "ONNX Runtime, native rewriting",
            "onnxruntime",
            _onnxruntime_absence,
            _open_onnxruntime,
            grid_sample="native",
        ),
    )
}

#: One row of the benchmark: a method, with what it samples.
MethodAt = tuple[SamplingMethod, Setting]


def build_sampler_engines(rows: Iterable[MethodAt], processes: int, console: Console) -> dict[MethodAt, str]:
    """Build what the rows run and the cache lacks, several at a time; why, for each row whose engine could not be."""
    jobs = {
        (method, setting): sampler_job(setting, method.grid_sample)
        for method, setting in rows
        if method.runner == "tensorrt" and method.grid_sample is not None and method.absence(setting) is None
    }
    failures = build_engines(list(jobs.values()), processes, console)
    return {row: failure for row, failure in zip(jobs, failures, strict=True) if failure is not None}
