"""What the gate decides on stored runs of the same code, on planted slowdowns and on planted losses of picture."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sadtrt_core.case import Case
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import REGRESSIONS, ExitCode, GateResult
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.records.schema import Drift, Record, Run

PICTURE_DECISIONS = 100


@dataclass(frozen=True)
class StoredRun:
    """One run of the experiment; `planted` is the slowdown that every row carries, as a fraction, 0 for none.

    Runs of the same `group` went round their rows in turn, at the same time: they met the same states of the GPU, so
    they are never compared with each other.
    """

    planted: float
    run: Run
    group: int


def split_visits(run: Run, count: int) -> list[Run]:
    """The run as several, each with as many visits to every row; visits that are left over are dropped.

    A run whose rows were visited no oftener, or once in one stretch, is left as it is.
    """
    visits = min((len(record.latency.visits) for record in run.records if record.latency), default=0)
    if visits <= count:
        return [run]
    starts = range(0, visits - count + 1, count)
    return [
        dataclasses.replace(run, records=tuple(_some_visits(record, first, count) for record in run.records))
        for first in starts
    ]


def _some_visits(record: Record, first: int, count: int) -> Record:
    latency = record.latency
    if latency is None:
        return record
    begin, end = (*latency.visits, len(latency.host_ms))[first : first + count + 1 : count]

    def within(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(index - begin for index in indices if begin <= index < end)

    part = dataclasses.replace(
        latency,
        host_ms=latency.host_ms[begin:end],
        device_ms=None if latency.device_ms is None else latency.device_ms[begin:end],
        disturbed=within(latency.disturbed),
        visits=within(latency.visits),
        late=within(latency.late),
    )
    return dataclasses.replace(record, latency=part)


def _share(count: int, total: int) -> dict[str, Any]:
    return {"count": count, "of": total, "percent": round(100 * count / total, 2) if total else None}


def same_code_decisions(pairs: Sequence[tuple[Run, Run]], thresholds: Thresholds) -> dict[str, Any]:
    """Each pair judged as candidate and baseline: how many decisions were false alarms, or could not be made."""
    codes: Counter[int] = Counter()
    alarms: list[str] = []
    rows = wrong_rows = faster_rows = 0
    for result in _judge_all(pairs, thresholds):
        codes[result.exit_code] += 1
        for row in result.rows:
            rows += 1
            faster_rows += row.verdict == "faster"
            if row.verdict in REGRESSIONS:
                wrong_rows += 1
                alarms.append(f"{row.key.label()}: {row.detail}")
    return {
        "decisions": len(pairs),
        "false_alarms": _share(codes[ExitCode.REGRESSION], len(pairs)),
        "not_comparable": _share(codes[ExitCode.NOT_COMPARABLE], len(pairs)),
        "rows_called_worse": _share(wrong_rows, rows),
        "rows_called_faster": _share(faster_rows, rows),
        "alarms": alarms[:20],
    }


def _judge_all(pairs: Sequence[tuple[Run, Run]], thresholds: Thresholds) -> list[GateResult]:
    """The gate's answers on pairs of candidate and baseline; its bootstraps run beside each other, outside the GIL."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: compare_runs(*pair, thresholds), pairs))


def all_pairs(stored: Sequence[StoredRun]) -> list[tuple[Run, Run]]:
    """Every two runs of unchanged code that are not of one group, each as the candidate of the other."""
    plain = [item for item in stored if item.planted == 0]
    return [(new.run, old.run) for new, old in itertools.permutations(plain, 2) if new.group != old.group]


def power_decisions(stored: Sequence[StoredRun], thresholds: Thresholds) -> list[dict[str, Any]]:
    """For every planted slowdown and row: how often a run with that one row slowed is caught for that row.

    The candidate is a planted run, the baseline any plain run of another group. What the gate
    says of the other rows is counted by `same_code_decisions`, so only the planted one is put to it, at the
    significance that it has among all of them.
    """
    plain = [item for item in stored if item.planted == 0]
    among_all = dataclasses.replace(thresholds, false_alarm=thresholds.false_alarm / len(plain[0].run.records))
    answers = []
    for level in sorted({item.planted for item in stored} - {0.0}):
        planted = [item for item in stored if item.planted == level]
        for slowed in planted[0].run.records:
            pairs = [
                (_only(source.run, slowed.key), _only(baseline.run, slowed.key))
                for source, baseline in itertools.product(planted, plain)
                if source.group != baseline.group
            ]
            caught = shown = unjudged = 0
            changes, limits = [], []
            reasons: Counter[str] = Counter()
            for result in _judge_all(pairs, among_all):
                (row,) = result.rows
                found = row.finding("device_ms") or row.finding("host_ms")
                assert found is not None  # Both runs hold times of this row.
                caught += found.verdict == "slower"
                shown += found.low is not None and found.low > 0
                unjudged += found.verdict == "not comparable"
                reasons[found.reason] += 1
                if found.change is not None and found.limit is not None:
                    changes.append(found.change)
                    limits.append(found.limit)
            answers.append(
                {
                    "row": slowed.key.label(),
                    "planted_percent": 100 * level,
                    "caught": _share(caught, len(pairs)),
                    "interval_above_zero": _share(shown, len(pairs)),
                    "not_comparable": _share(unjudged, len(pairs)),
                    "median_limit_percent": round(float(np.median(limits)), 2) if limits else None,
                    "median_change_percent": round(float(np.median(changes)), 2) if changes else None,
                    "reasons": dict(reasons.most_common()),
                }
            )
    return answers


def _only(run: Run, key: Case) -> Run:
    """The run with one of its rows."""
    return dataclasses.replace(run, records=tuple(record for record in run.records if record.key == key))


def picture_decisions(portrait: torch.Tensor, run: Run, thresholds: Thresholds, seed: int = 0) -> dict[str, Any]:
    """Frames with rounding noise of 40 to 85 dB, then with 1 dB more of it, and with one pixel one level farther off.

    `portrait` is (1, 3, H, W) in 0..1; `run` lends environment and keys. Each loss is planted PICTURE_DECISIONS times.
    """
    random = np.random.default_rng(seed)
    # Away from black and white, where a level more may be clipped.
    reference = (0.2 + 0.6 * portrait).repeat(2, 1, 1, 1)
    caught: Counter[str] = Counter()
    for _ in range(PICTURE_DECISIONS):
        rms = 10 ** (-random.uniform(40, 85) / 20)
        error = torch.from_numpy(random.normal(0, rms, reference.shape)).float()
        before = measure_drift(reference, reference + error)
        worse = {
            "same": reference + error,
            "one_decibel": reference + error * 10 ** (1 / 20),
            "one_level": _one_level_more(reference, reference + error),
        }
        for name, frames in worse.items():
            result = compare_runs(
                _with_drift(run, measure_drift(reference, frames)), _with_drift(run, before), thresholds
            )
            caught[name] += result.exit_code == ExitCode.REGRESSION
    return {
        "false_alarms": _share(caught["same"], PICTURE_DECISIONS),
        "one_decibel_caught": _share(caught["one_decibel"], PICTURE_DECISIONS),
        "one_level_caught": _share(caught["one_level"], PICTURE_DECISIONS),
    }


def _one_level_more(reference: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The frames with their worst pixel one uint8 level farther from the reference."""
    levels = (frames * 255).round() - (reference * 255).round()
    worst = int(levels.abs().argmax())
    moved = frames.clone().reshape(-1)
    moved[worst] += (1 if levels.reshape(-1)[worst] >= 0 else -1) / 255
    return moved.reshape(frames.shape)


def _with_drift(run: Run, drift: Drift) -> Run:
    record = run.records[0]
    weights = dataclasses.replace(run.weights, kind="fitted")
    only = Record(record.key, "measured", drift=drift, benchmark_version=record.benchmark_version)
    return dataclasses.replace(run, weights=weights, records=(only,))
