"""Runs the benchmark suite in a process of its own, as a user would, under faults that a test plants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = (
    "bench/test_stage_latency.py",
    *("--benchmark-only", "--device", "cpu", "--stage", "mapping", "--runner", "pytorch", "--precision", "fp32"),
    *("--weights", "seeded", "-p", "no:cacheprovider"),
)
"""One row that takes half a second."""

#: Calls take a time that the test sets, 10 ms times a factor, with half a percent of noise, on a clock that is exact.
EXACT_TIMES = """
    import os
    import numpy as np
    from sadtrt_core.measure import host_load
    from sadtrt_core.measure.timing import LatencySampler

    # Whatever else runs here.
    host_load.read_processor_times = host_load.read_waiting_times = lambda: None
    host_load.time_reference_loop = lambda: 0.3

    def pytest_configure(config):
        noise = iter(np.random.default_rng(int(os.environ["SEED"])).normal(0, 0.005, 10_000))

        def host_call(self):
            self.runner.execute()
            start = float(len(self.windows) + len(self.warmup_ms))
            return start, start + 0.010 * float(os.environ["FACTOR"]) * float(np.exp(next(noise)))

        LatencySampler._host_call = host_call
"""
#: Runs pytest once for every line of JSON on its input and answers each with the exit status.
_MANY_RUNS = """
import json, os, sys, traceback
import pytest
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    asked = json.loads(line)
    os.environ.update(asked["environment"])
    output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    try:
        code = pytest.main(asked["arguments"])
    except Exception:
        # As the command would end: pytest-benchmark says in this way that performance has regressed.
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    print(int(code), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Finished:
    """How a run of pytest ended: exit status, everything it printed, and the folders of results it left."""

    code: int
    output: str
    folders: tuple[Path, ...]


def _arguments(folder: Path, arguments: Sequence[str], plugin: str) -> list[str]:
    (folder / "planted.py").write_text(textwrap.dedent(plugin))
    paths = {"--results": folder / "results", "--cache": folder / "cache", "--benchmark-storage": folder / "storage"}
    return [*arguments, *(word for name, path in paths.items() for word in (name, str(path))), "-p", "planted"]


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def _finished(code: int, output: str, folder: Path) -> Finished:
    return Finished(code, output, tuple(sorted(path.parent for path in (folder / "results").glob("2*/records.json"))))


class SuiteProcess:
    """One interpreter that runs the suite again and again with the same planted plugin, so that it imports once."""

    def __init__(self, folder: Path, plugin: str) -> None:
        self.folder, self._plugin = folder, plugin
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MANY_RUNS],
            cwd=ROOT,
            env=_environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: Sequence[str] = TINY, **environment: str) -> Finished:
        """Run `pytest <arguments>`."""
        asked = {
            "arguments": _arguments(self.folder, arguments, self._plugin),
            "environment": environment,
            "output": str(self.folder / "output.txt"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        code = self._process.stdout.readline()
        output = (self.folder / "output.txt").read_text()
        assert code, f"the interpreter ended: {output}"
        return _finished(int(code), output, self.folder)

    def close(self) -> None:
        """End the interpreter."""
        self._process.communicate(timeout=60)


def start_suite(folder: Path, arguments: Sequence[str] = TINY, plugin: str = "") -> subprocess.Popen[str]:
    """Start `pytest <arguments>` with its results in `folder`/results and `plugin` as the source of a pytest plugin."""
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *_arguments(folder, arguments, plugin)],
        cwd=ROOT,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end_suite(process: subprocess.Popen[str], folder: Path) -> Finished:
    """Wait for what `start_suite` started."""
    output, _ = process.communicate(timeout=300)
    return _finished(process.returncode, output, folder)


def run_suite(folder: Path, arguments: Sequence[str] = TINY, plugin: str = "") -> Finished:
    """Start the suite and wait for it."""
    return end_suite(start_suite(folder, arguments, plugin), folder)
