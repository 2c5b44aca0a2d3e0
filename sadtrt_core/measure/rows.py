"""What a benchmark's row records beside its figures: what a runner takes, and why there are none."""

from __future__ import annotations

from sadtrt_core.case import Case
from sadtrt_core.measure.memory import device_memory_used
from sadtrt_core.records.schema import Record, Resources
from sadtrt_core.runners.base import StageRunner

#: Raised when the benchmarks measure something else than before; older baselines then do not compare. 4: the device
#: is held back until the host has enqueued a call, whose device time before that included the launch. 3: on a GPU a
#: row's samples come from several visits; 2 took one stretch.
BENCHMARK_VERSION = 4


def resources(runner: StageRunner, before_mb: float | None, energy_mj_per_frame: float | None = None) -> Resources:
    """What an activated runner takes: device memory beyond `before_mb`, its engine's size, and energy."""
    after = device_memory_used(runner.job.device)
    memory = None if after is None or before_mb is None else max(0.0, after - before_mb)
    return Resources(memory, None if runner.engine_bytes is None else runner.engine_bytes / 1e6, energy_mj_per_frame)


def skipped(key: Case, reason: str) -> Record:
    """A record that says why a row was not run."""
    return Record(key, "skipped", reason=reason, benchmark_version=BENCHMARK_VERSION)


def failed(key: Case, error: BaseException) -> Record:
    """A record that says how a row broke."""
    words = " ".join(str(error).split()) or type(error).__name__
    return Record(key, "failed", reason=f"{type(error).__name__}: {words}"[:500], benchmark_version=BENCHMARK_VERSION)
