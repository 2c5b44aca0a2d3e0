"""The two kinds of side that are sampled: a runner of this process, or one of another checkout behind a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sadtrt_core.benchmark import BENCHMARK_VERSION
from sadtrt_core.compare.engine_file import EngineFileRunner, engine_file_absence
from sadtrt_core.compare.side import Side, question
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.runners.base import StageRunner
from sadtrt_core.session import Session


@dataclass(frozen=True)
class Samples:
    """Samples in ms of one side; `device_ms` is None on a CPU. `late` of them include waiting for the host."""

    host_ms: tuple[float, ...]
    device_ms: tuple[float, ...] | None
    late: int = 0


class Sampler(Protocol):
    """A side that is warm: a runner in this process or one behind a pipe."""

    call_seconds: float

    def render(self) -> Tensor | None:
        """The workload's frames (T, 3, H, W), float32 on the host; None from a checkout that does not know how."""

    def sample(self, count: int) -> Samples:
        """Run once uncounted, to bring back what the other side drove from the caches, then `count` samples."""


class LocalSide:
    """An activated and bound runner of this process, warmed up."""

    def __init__(self, runner: StageRunner, session: Session) -> None:
        self._runner, self._session = runner, session
        self._sampler = LatencySampler(runner)
        calls = 1 if runner.stream is None else 2  # A sample is a call for each clock.
        self.call_seconds = calls * self._sampler.warm_up(session.timing_plan)

    def sample(self, count: int) -> Samples:
        self._runner.execute()
        self._runner.synchronize()
        sampler = self._sampler
        begin, late = len(sampler.host_ms), len(sampler.late)
        for _ in range(count):
            sampler.sample()
        device = tuple(sampler.device_ms[begin:]) or None
        return Samples(tuple(sampler.host_ms[begin:]), device, len(sampler.late) - late)

    def render(self) -> Tensor:
        """Every frame of the workload through the runner, which has to be the generator's."""
        items, batch = self._session.frame_inputs, self._runner.job.batch
        chunks = [items[i : i + batch] for i in range(0, len(items), batch)]
        together = [{name: torch.cat([item[name] for item in chunk]) for name in chunk[0]} for chunk in chunks]
        return self._session.render_sequence(self._runner, together)


@contextlib.contextmanager
def local_side(side: Side, session: Session) -> Iterator[LocalSide]:
    """A side of this process. Raises UserError, which says why the runner cannot serve here."""
    case = side.resolved(session)
    job = session.job(case)
    missing = session.unavailable(case) if side.engine is None else engine_file_absence(side.engine, job)
    if missing is not None:
        raise UserError(f"{side.label} cannot run {case.stage} here: {missing}")
    with session.runner(case) if side.engine is None else EngineFileRunner(job, side.engine) as runner:
        runner.bind(session.inputs(job))
        yield LocalSide(runner, session)


class RemoteSide:
    """A runner of another checkout, in a process of that checkout, asked through a pipe."""

    def __init__(self, process: subprocess.Popen[str], checkout: Path) -> None:
        self._process, self._checkout = process, checkout
        self.call_seconds = 0.0
        self._renders = False
        #: Whether that checkout takes device times as this one does; where not, only host times compare.
        self.times_alike = False

    def start(self, side: Side, config: RunConfig) -> None:
        """Tell the worker what to run and wait until it is warm."""
        # An older checkout does not read the version.
        answer = self._ask({**question(side, config), "benchmark_version": BENCHMARK_VERSION})
        self.call_seconds = float(answer["call_seconds"])
        self._renders = bool(answer.get("renders", False))
        self.times_alike = answer.get("benchmark_version") == BENCHMARK_VERSION

    def sample(self, count: int) -> Samples:
        answer = self._ask({"take": count})
        device = answer["device_ms"] if self.times_alike else None
        host = tuple(map(float, answer["host_ms"]))
        return Samples(host, None) if device is None else Samples(host, tuple(map(float, device)), int(answer["late"]))

    def render(self) -> Tensor | None:
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
        remote = RemoteSide(process, checkout)
        remote.start(side, config)
        yield remote
    finally:
        # The end of its input tells the worker to leave.
        with contextlib.suppress(BrokenPipeError):
            process.communicate()
