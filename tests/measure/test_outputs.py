"""Whether what is timed computes its stage: what no precision explains is a fault, and the row that has it fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sadtrt_core import benchmark
from sadtrt_core.benchmark import measure_latency
from sadtrt_core.config import RunConfig
from sadtrt_core.measure.interleave import Interleaver, take_samples
from sadtrt_core.measure.outputs import output_fault
from sadtrt_core.measure.timing import TimingPlan
from sadtrt_core.records.schema import Record
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.runners.pytorch import PyTorchRunner
from sadtrt_core.session import Session

#: Frames of a slow movement: neighbours are alike, 25 dB apart.
FRAMES = (0.5 + 0.3 * torch.sin(torch.linspace(0, 40, 3 * 64 * 64) + torch.arange(4)[:, None] / 6)).view(4, 3, 64, 64)
NOISE = torch.randn(FRAMES.shape, generator=torch.Generator().manual_seed(0))


def broken(frames: Tensor) -> Tensor:
    frames = frames.clone()
    frames[2, 0, 5, 5] = torch.nan
    return frames


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda frames: frames + 0.1 * NOISE, None),  # 20 dB: a bad precision, and the same frames.
        (lambda frames: frames.half().float(), None),
        (broken, "sample 2 of 4 holds NaN or infinity"),
        (torch.zeros_like, "sample 0 of 4 is off by"),
        (lambda frames: frames.mean().expand_as(frames), "sample 0 of 4 is off by"),
        (lambda frames: frames[:1].expand_as(frames), "sample 1 of 4 is nearer to what sample 0 should give"),
        (lambda frames: frames.flip(0), "sample 0 of 4 is nearer to what sample 3 should give"),
        (lambda frames: frames[:3], "has shape (3, 3, 64, 64) where (4, 3, 64, 64) is expected"),
    ],
)
def test_what_no_precision_explains_is_a_fault(made: Callable[[Tensor], Tensor], words: str | None) -> None:
    fault = output_fault({"prediction": made(FRAMES)}, {"prediction": FRAMES})
    if words is None:
        assert fault is None
    else:
        assert words in str(fault)


def test_samples_that_are_alike_and_outputs_that_hardly_vary_are_none() -> None:
    alike = FRAMES[:1].repeat(3, 1, 1, 1)
    assert output_fault({"a": alike + 0.1 * NOISE[:3]}, {"a": alike}) is None
    level = torch.full((1, 1, 8, 8), 0.999)
    level[..., 0] = 0.9985
    assert output_fault({"occlusion": level.bfloat16().float()}, {"occlusion": level}) is None
    assert "off by" in str(output_fault({"occlusion": level - 0.5}, {"occlusion": level}))


class FirstOfTheBatch(PyTorchRunner):
    """Gives the first sample for every other one, as an operator does that knows nothing of batches."""

    def fetch(self) -> dict[str, Tensor]:
        return {name: made[:1].expand_as(made) for name, made in super().fetch().items()}


@pytest.fixture
def suite(tiny_256: Renderer, tmp_path: Path) -> Session:
    made = Session(RunConfig(device="cpu", cache=tmp_path, results=tmp_path / "results"))
    # The names of weights that mean something: whose these are is of no interest here.
    fitted = dataclasses.replace(tiny_256.weights, kind="demo")
    made.__dict__["renderer"] = dataclasses.replace(tiny_256, weights=fitted)
    made.__dict__["timing_plan"] = TimingPlan(1, 0.0, 0.0, 2, 2)
    return made


def measured(suite: Session, stage: str, batch: int) -> Record:
    kept: list[Record] = []
    case = suite.case(stage, "pytorch", "fp32", batch)
    measure_latency(suite, case, Interleaver(suite.timing_plan), take_samples, kept.append, lambda error: None)
    return kept[-1]


@pytest.mark.parametrize(("stage", "batch"), [("mapping", 3), ("warp", 2), ("clip", 1)])
def test_a_row_that_computes_its_stage_is_measured(suite: Session, stage: str, batch: int) -> None:
    assert measured(suite, stage, batch).status == "measured"


def test_a_row_that_computes_something_else_fails_and_keeps_its_times(
    suite: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "runner", lambda self, case: FirstOfTheBatch(self.job(case)))
    with pytest.raises(RuntimeError, match="what was timed is not the stage mapping: output 'keypoints' of sample 1"):
        measured(suite, "mapping", 3)
    assert suite.writer.run.records[0].latency is not None
    # One of the batch is the first.
    assert measured(suite, "mapping", 1).status == "measured"


def test_what_a_process_keeps_of_an_engine_is_no_rows_memory(suite: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"libraries": 0, "engine": 0}

    class Engine(PyTorchRunner):
        def activate(self) -> None:
            super().activate()
            taken.update(libraries=105, engine=411)

        def deactivate(self) -> None:
            super().deactivate()
            taken["engine"] = 0

    def used(device: torch.device) -> float:
        return float(sum(taken.values()))

    monkeypatch.setattr(Session, "runner", lambda self, case: Engine(self.job(case)))
    monkeypatch.setattr(Session, "on_gpu", True)
    monkeypatch.setattr(benchmark, "device_memory_used", used)
    monkeypatch.setattr(benchmark, "device_memory_free_of_leftovers", used)
    case = suite.case("mapping", "onnxruntime", "fp32")
    for _ in range(2):
        kept: list[Record] = []
        measure_latency(suite, case, Interleaver(suite.timing_plan), take_samples, kept.append, lambda error: None)
        assert kept[-1].resources is not None
        assert kept[-1].resources.gpu_memory_mb == 411, "whether it is the first of its process or not"


def test_the_load_time_and_the_first_call_are_those_of_the_first_load(
    suite: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second, for the memory, finds everything in the caches."""
    seconds = {"load": 5.0, "call": 3.0}
    now = [0.0]

    class Slow(PyTorchRunner):
        def activate(self) -> None:
            super().activate()
            now[0] += seconds["load"]

        def execute(self) -> None:
            super().execute()
            now[0] += seconds["call"]

        def deactivate(self) -> None:
            super().deactivate()
            seconds.update(load=0.5, call=0.001)

    monkeypatch.setattr(Session, "runner", lambda self, case: Slow(self.job(case)))
    monkeypatch.setattr(Session, "on_gpu", True)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    kept: list[Record] = []
    case = suite.case("mapping", "onnxruntime", "fp32")
    measure_latency(suite, case, Interleaver(suite.timing_plan), take_samples, kept.append, lambda error: None)
    assert kept[-1].resources is not None
    assert (kept[-1].resources.load_s, kept[-1].resources.first_call_ms) == (5.0, 3000.0)


def test_noise_has_no_outputs_to_be_right(suite: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = dataclasses.replace(suite.renderer.weights, kind="seeded")
    suite.__dict__["renderer"] = dataclasses.replace(suite.renderer, weights=noise)
    monkeypatch.setattr(Session, "runner", lambda self, case: FirstOfTheBatch(self.job(case)))
    assert measured(suite, "mapping", 3).status == "measured"
