"""The ways to sample a volume that are timed against each other, as one registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from sadtrt_core.benchmark import build_engines
from sadtrt_core.engine.kernels import find_kernels, kernels_absence
from sadtrt_core.graph.rounding import cpu_session
from sadtrt_core.sampling.engine import GraphSampler, sampler_engine, sampler_engine_absence, sampler_graph, sampler_job
from sadtrt_core.sampling.kernel import kernel_launch
from sadtrt_core.sampling.shapes import Launch, Launcher, SamplingShape, Setting
from sadtrt_core.sampling.torch_forms import expanded, tiled, torch_launch

Applies = Callable[[SamplingShape, torch.dtype], bool]


def _always(shape: SamplingShape, dtype: torch.dtype) -> bool:
    return True


def _many_grids(shape: SamplingShape, dtype: torch.dtype) -> bool:
    return shape.repeats > 1


@dataclass(frozen=True)
class SamplingMethod:
    """One way to sample. `runner` is the runner that it belongs to, for `--runner`.

    `open` gives a launcher and frees it when left. `applies` says for which shapes and types it is a method of
    its own. `exact_coordinates` is False where the grid is rounded to the features' type.
    """

    name: str
    runner: str
    absence: Callable[[Setting], str | None]
    open: Callable[[Setting], AbstractContextManager[Launcher]]
    applies: Applies = _always
    exact_coordinates: bool = True
    grid_sample: GraphSampler | None = None


def _kernel_method(name: str, applies: Applies = _always, **choices: Any) -> SamplingMethod:
    def opened(setting: Setting) -> AbstractContextManager[Launcher]:
        return nullcontext(partial(kernel_launch, find_kernels(), **choices))

    return SamplingMethod(name, "tensorrt", lambda setting: kernels_absence(setting.device), opened, applies)


def _engine_method(name: str, grid_sample: GraphSampler) -> SamplingMethod:
    absence, opened = partial(sampler_engine_absence, grid_sample), partial(sampler_engine, grid_sample)
    return SamplingMethod(name, "tensorrt", absence, opened, grid_sample=grid_sample)


def _torch_method(name: str, applies: Applies, exact_coordinates: bool = False, **form: Any) -> SamplingMethod:
    def opened(setting: Setting) -> AbstractContextManager[Launcher]:
        return nullcontext(partial(torch_launch, exact_coordinates=exact_coordinates, **form))

    return SamplingMethod(name, "pytorch", _torch_absence, opened, applies, exact_coordinates)


def _torch_absence(setting: Setting) -> str | None:
    if setting.device.type != "cuda" and setting.dtype != torch.float32:
        return "half is timed on a GPU: a CPU computes it in fp32 and rounds"
    return None


def _onnxruntime_absence(setting: Setting) -> str | None:
    if setting.device.type == "cuda":
        return "ONNX Runtime runs on the CPU: on a GPU the native rewriting is timed as an engine"
    return _torch_absence(setting)


def _open_onnxruntime(setting: Setting) -> AbstractContextManager[Launcher]:
    session = cpu_session(sampler_graph(setting.shape, setting.dtype, "native"))

    def launcher(volume: Tensor, grid: Tensor) -> Launch:
        inputs = {"volume": volume.numpy(), "grid": grid.numpy()}
        return lambda: torch.from_numpy(session.run(["samples"], inputs)[0])

    return nullcontext(launcher)


SAMPLING_METHODS: dict[str, SamplingMethod] = {
    method.name: method
    for method in (
        _kernel_method("kernel"),
        _kernel_method("kernel, no workspace", packing="never"),
        _kernel_method("kernel, channels last", lambda shape, dtype: shape.channels % 8 == 0, layout="channels_last"),
        _engine_method("engine with the plugin", "plugin"),
        _engine_method("engine, native rewriting", "native"),
        _torch_method("PyTorch", lambda shape, dtype: shape.repeats == 1),
        # As SadTalker's own code does it.
        _torch_method("PyTorch, tiles in each call", _many_grids, each_call=tiled),
        _torch_method("PyTorch, tiled before", _many_grids, before=tiled),
        _torch_method(
            "PyTorch, expanded view",
            lambda shape, dtype: shape.repeats > 1 and shape.volumes == 1,
            each_call=expanded,
        ),
        # The form as accurate as the kernel in half: all else rounds the coordinates.
        _torch_method(
            "PyTorch, fp32 coordinates",
            lambda shape, dtype: dtype != torch.float32,
            exact_coordinates=True,
            each_call=expanded,
        ),
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
