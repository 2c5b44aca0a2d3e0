"""The sides of a comparison: cases as typed, runners of this process, those of another checkout behind a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sadtrt_core.benchmark import BENCHMARK_VERSION, stage_fault
from sadtrt_core.case import GRAPH_GRID_SAMPLES, Case
from sadtrt_core.config import RunConfig
from sadtrt_core.engine.job import parse_file_name
from sadtrt_core.errors import UserError
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.precision import PLAN_SUFFIX
from sadtrt_core.runners.base import StageRunner
from sadtrt_core.runners.tensorrt import TensorRTRunner, engine_file_absence
from sadtrt_core.session import Session

PICTURE_FRAMES = 4
"""At least so many frames of the workload are rendered by both sides to say how far their pictures are apart."""
#: Stands for the way to sample that the machine offers, where none was asked for.
AUTO = "auto"
#: What both sides share of a RunConfig. These names and those in `question` are understood by older checkouts.
_SHARED = ("size", "weights", "checkpoint", "device", "cache", "optimization_level")
_SIDE = {"runner", "precision", "grid_sample", "engine"}


@dataclass(frozen=True)
class Side:
    """A case, its grid_sample being AUTO where the machine may choose and its precision a plan's file where one is.

    `engine` is an engine file that TensorRT runs, whatever precision it was built in.
    """

    case: Case
    engine: Path | None = None

    @property
    def label(self) -> str:
        """What a user types for it, with its defaults filled in; of an engine file its name."""
        if self.engine is not None:
            return self.engine.name
        words = (self.case.runner, self.case.precision, self.case.grid_sample)
        return ":".join(word for word in words if word != AUTO)


def parse_side(text: str, stage: str, batch: int) -> Side:
    """`runner[:precision[:grid_sample]]`, fp32 where no precision is given, or the path of a `.engine` file.

    Raises UserError, which says what is expected.
    """
    if text.endswith(".engine"):
        path = Path(text).resolve()
        return Side(Case(stage, "tensorrt", "fp32", parse_file_name(path)[0].grid_sample, batch), path)
    runner, *rest = text.split(":")
    if len(rest) > 2 or not all((runner, *rest)):
        raise UserError(f"{text!r} should be runner[:precision[:grid_sample]], such as pytorch:fp16, or an engine file")
    precision, grid_sample = (*rest, *("fp32", AUTO)[len(rest) :])
    if grid_sample != AUTO and grid_sample not in GRAPH_GRID_SAMPLES:
        raise UserError(f"grid sample {grid_sample!r} is not known: expected {', '.join(GRAPH_GRID_SAMPLES)}")
    return Side(Case(stage, runner, precision, grid_sample, batch))


def picture_frames(batch: int) -> int:
    """How many frames both sides render: whole batches."""
    return batch * -(-PICTURE_FRAMES // batch)


def question(side: Side, config: RunConfig) -> dict[str, Any]:
    """What another checkout's process is asked to run, as JSON has it. It runs in another folder: paths are whole."""
    case = side.case
    precision = str(Path(case.precision).resolve()) if case.precision.endswith(PLAN_SUFFIX) else case.precision
    words = {"runner": case.runner, "precision": precision}
    # Without what was not given, so that a checkout that does not know engine files understands the rest.
    if case.grid_sample != AUTO:
        words["grid_sample"] = case.grid_sample
    if side.engine is not None:
        words["engine"] = str(side.engine)
    shared = {name: getattr(config, name) for name in _SHARED}
    if config.weights.endswith(".safetensors"):
        shared["weights"] = Path(config.weights)
    shared = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in shared.items()}
    return {"side": words, "conditions": {"stage": case.stage, "batch": case.batch, **shared}}


def read_question(asked: Mapping[str, Any]) -> tuple[Side, RunConfig]:
    """The side and the configuration of a `question`. Raises UserError for what this version does not know."""
    words, conditions = asked["side"], asked["conditions"]
    unknown = [*(set(words) - _SIDE), *(set(conditions) - {"stage", "batch", *_SHARED})]
    if unknown:
        raise UserError(f"this checkout does not know {', '.join(sorted(unknown))}: it is too old for this comparison")
    batch = conditions["batch"]
    case = Case(conditions["stage"], words["runner"], words["precision"], words.get("grid_sample", AUTO), batch)
    shared = {name: conditions[name] for name in _SHARED if name in conditions}
    for name in ("checkpoint", "cache"):
        shared[name] = Path(shared[name]) if shared.get(name) else None
    config = RunConfig.from_options({**shared, "stage": case.stage, "batch": batch, "frames": picture_frames(batch)})
    return Side(case, Path(words["engine"]) if "engine" in words else None), config


@dataclass(frozen=True)
class Samples:
    """Samples in ms of one side; `device_ms` is None on a CPU. `late` of them include waiting for the host."""

    host_ms: tuple[float, ...]
    device_ms: tuple[float, ...] | None
    late: int = 0


class LocalSide:
    """An activated and bound runner of this process, warmed up."""

    def __init__(self, runner: StageRunner, session: Session) -> None:
        self._runner, self._session = runner, session
        self._sampler = LatencySampler(runner)
        calls = 1 if runner.stream is None else 2  # A sample is a call for each clock.
        self.call_seconds = calls * self._sampler.warm_up(session.timing_plan)

    def sample(self, count: int) -> Samples:
        """Run once uncounted, to bring back what the other side drove from the caches, then `count` samples."""
        self._runner.execute()
        self._runner.synchronize()
        sampler = self._sampler
        begin, late = len(sampler.host_ms), len(sampler.late)
        for _ in range(count):
            sampler.sample()
        device = tuple(sampler.device_ms[begin:]) or None
        return Samples(tuple(sampler.host_ms[begin:]), device, len(sampler.late) - late)

    def render(self) -> Tensor:
        """The workload's frames (T, 3, H, W), float32 on the host. The runner has to be of a stage of RENDERING."""
        items, batch = self._session.frame_inputs(self._runner.job.stage.name), self._runner.job.batch
        chunks = [items[i : i + batch] for i in range(0, len(items), batch)]
        together = [{name: torch.cat([item[name] for item in chunk]) for name in chunk[0]} for chunk in chunks]
        return self._runner.frames(together)


@contextlib.contextmanager
def local_side(side: Side, session: Session) -> Iterator[LocalSide]:
    """A side of this process.

    Raises UserError for a name that is not known, saying why the runner cannot serve, and where it does not compute its
    stage, an engine of other weights, say.
    """
    asked = side.case
    case = session.case(asked.stage, asked.runner, asked.precision, asked.batch)
    if asked.grid_sample != AUTO:
        case = replace(case, grid_sample=asked.grid_sample)
    job = session.job(case)
    missing = session.unavailable(case) if side.engine is None else engine_file_absence(side.engine, job)
    if missing is not None:
        raise UserError(f"{side.label} cannot run {case.stage} here: {missing}")
    with session.runner(case) if side.engine is None else TensorRTRunner(job, engine_file=side.engine) as runner:
        runner.bind(session.inputs(job))
        local = LocalSide(runner, session)
        if (fault := stage_fault(session, runner)) is not None:
            advice = "" if side.engine is None else "; build the engine anew from these weights"
            raise UserError(f"{side.label}: {fault}{advice}")
        yield local


class RemoteSide:
    """A runner of another checkout, in a process of that checkout, asked through a pipe."""

    def __init__(self, process: subprocess.Popen[str], checkout: Path, side: Side, config: RunConfig) -> None:
        """Tell the worker what to run and wait until it is warm."""
        self._process, self._checkout = process, checkout
        # An older checkout does not read the version.
        answer = self._ask({**question(side, config), "benchmark_version": BENCHMARK_VERSION})
        self.call_seconds = float(answer["call_seconds"])
        self._renders = bool(answer.get("renders", False))
        #: Whether that checkout takes device times as this one does; where not, only host times compare.
        self.times_alike: bool = answer.get("benchmark_version") == BENCHMARK_VERSION
        #: Digests of what it renders and with what; None from a checkout that does not tell.
        self.weights: str | None = answer.get("weights")
        self.workload: str | None = answer.get("workload")

    def sample(self, count: int) -> Samples:
        """As `LocalSide.sample`."""
        answer = self._ask({"take": count})
        device = answer["device_ms"] if self.times_alike else None
        host = tuple(map(float, answer["host_ms"]))
        return Samples(host, None) if device is None else Samples(host, tuple(map(float, device)), int(answer["late"]))

    def render(self) -> Tensor | None:
        """As `LocalSide.render`; None from a checkout that does not know how."""
        if not self._renders:
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "frames.npy"
            self._ask({"render": str(file)})
            return torch.from_numpy(np.load(file, allow_pickle=False))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The worker has ended: its answer, or its having none, says how.
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise UserError(
                f"the checkout {self._checkout} ended with exit status {code} instead of answering: what it wrote is "
                "above; a checkout older than `sadtrt compare` cannot take part"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise UserError(f"the checkout {self._checkout} says: {answer['error']}")
        return answer


#: A side that is warm.
Sampler = LocalSide | RemoteSide


@contextlib.contextmanager
def remote_side(side: Side, config: RunConfig, checkout: Path) -> Iterator[RemoteSide]:
    """A side of another checkout of this project, by the same Python. Raises UserError where it cannot take part."""
    checkout = checkout.resolve()
    if not (checkout / "sadtrt_core").is_dir():
        raise UserError(f"{checkout} is no checkout of this project: it has no folder sadtrt_core")
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "sadtrt_core.compare_worker"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield RemoteSide(process, checkout, side, config)
    finally:
        # The end of its input tells the worker to leave.
        with contextlib.suppress(BrokenPipeError):
            process.communicate()
