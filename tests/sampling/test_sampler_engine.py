"""An engine of a sampler runs on the tensors it is given, and is refused where it would write elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.engine.plugin import PluginLibrary
from sadtrt_core.sampling import engine as sampler
from sadtrt_core.sampling.shapes import SamplingShape, Setting

SHAPE = SamplingShape("3 grids", 4, 7, 1, 3)


class Context:
    """An execution context that remembers what it was told."""

    def __init__(self, shapes):
        self.shapes, self.addresses, self.streams = shapes, {}, []

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self.streams.append(stream)
        return True


@pytest.fixture
def loaded(monkeypatch):
    """Stands in for TensorRT: the types and shapes of the engine that it loads, for a test to change."""
    types = {"volume": "half", "grid": "float", "samples": "half"}
    shapes = {"volume": SHAPE.volume_shape, "grid": SHAPE.grid_shape, "samples": SHAPE.samples_shape}
    context = Context(shapes)
    engine = SimpleNamespace(get_tensor_dtype=types.get, create_execution_context=lambda: context)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None)

    @contextmanager
    def collect(trt):
        yield ["it is of another version"]

    trt = SimpleNamespace(float32="float", float16="half")
    monkeypatch.setattr(sampler.api, "tensorrt_module", lambda: trt)
    monkeypatch.setattr(sampler.api, "collected_messages", collect)
    monkeypatch.setattr(sampler.api, "create_runtime", lambda trt: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    state = SimpleNamespace(types=types, shapes=shapes, context=context, plan=b"plan")
    monkeypatch.setattr(sampler, "ensure_engine", lambda job, report: SimpleNamespace(plan=state.plan))
    return state


def _engine(tmp_path):
    setting = Setting(SHAPE, torch.float16, torch.device("cpu"), tmp_path, 3)
    return sampler.sampler_engine("native", setting)


def test_a_launch_runs_on_the_tensors_it_is_given_and_on_torchs_stream(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
    volume = torch.zeros(SHAPE.volume_shape, dtype=torch.float16)
    grid = torch.zeros(SHAPE.grid_shape)
    with _engine(tmp_path) as launcher:
        samples = launcher(volume, grid)()
    assert (samples.shape, samples.dtype) == (SHAPE.samples_shape, torch.float16)
    assert loaded.context.streams == [77]
    assert loaded.context.addresses == {
        "volume": volume.data_ptr(),
        "grid": grid.data_ptr(),
        "samples": samples.data_ptr(),
    }


@pytest.mark.parametrize(
    ("what", "name", "value"),
    [("types", "samples", "float"), ("types", "grid", "half"), ("shapes", "samples", (1, 4, 16, 7, 7))],
)
def test_an_engine_of_other_types_or_shapes_is_refused(loaded, tmp_path, what, name, value):
    getattr(loaded, what)[name] = value
    with pytest.raises(RuntimeError, match=f"tensor '{name}' of the sampler's engine"), _engine(tmp_path):
        pass


def test_an_engine_that_does_not_load_is_refused_in_tensorrts_words(loaded, tmp_path):
    loaded.plan = b"another"
    with pytest.raises(RuntimeError, match="refused the engine: it is of another version"), _engine(tmp_path):
        pass


def test_every_row_with_an_engine_that_can_run_has_it_built_before(monkeypatch, tmp_path):
    from rich.console import Console

    from sadtrt_core.sampling import methods

    library = PluginLibrary(tmp_path / "plugin.so", "1", "trt8", "8.6.0", "digest")
    monkeypatch.setattr(sampler, "built_plugin", lambda: library)
    asked = []

    def build_engines(jobs, processes, console):
        asked.extend(jobs)
        return tuple("no tactic" if job.case.grid_sample == "native" and job.case.batch == 1 else None for job in jobs)

    monkeypatch.setattr(methods, "build_engines", build_engines)
    two_volumes = SamplingShape("2 x 2 grids", 3, 5, 2, 4)
    rows = [
        (
            replace(method, absence=lambda setting: None),
            Setting(shape, dtype, torch.device("cuda"), tmp_path, 3),
        )
        for shape in (SHAPE, two_volumes)
        for dtype in (torch.float32, torch.float16)
        for method in methods.SAMPLING_METHODS.values()
    ]
    failed = methods.build_sampler_engines(rows, 2, Console())
    assert len({job.graph for job in asked}) == len({job.label for job in asked}) == len(asked) == 8
    assert {job.plugin for job in asked if job.case.grid_sample == "plugin"} == {library}
    assert {(method.name, setting.shape, setting.dtype): why for (method, setting), why in failed.items()} == {
        ("engine, native rewriting", SHAPE, dtype): "no tactic" for dtype in (torch.float32, torch.float16)
    }
