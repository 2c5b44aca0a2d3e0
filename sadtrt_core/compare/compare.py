"""Interleaved comparison: two runners, engines or checkouts in turn, A B B A, so that what drifts drifts for both."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core import stats
from sadtrt_core.compare.side import Conditions, Side
from sadtrt_core.compare.sides import Sampler, Samples, local_side, remote_side
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.progress import Reporter
from sadtrt_core.records.measurements import Drift

CONFIDENCE = 0.95
TURN_SECONDS = 0.03
"""About how long one side works before it is the other's turn."""
ROUNDS_MIN, ROUNDS_MAX = 10, 200


@dataclass(frozen=True)
class Outcome:
    """Medians in ms of both sides on one clock, and the ratio B over A with its interval; above 1, B is slower.

    `at_host_pace` says that most device times of a side include waiting for the host.
    """

    clock: str
    a_ms: float
    b_ms: float
    ratio: float
    interval: stats.Interval
    rounds: int
    samples: int
    launch_bound: bool = False

    def sentence(self, a: str, b: str) -> str:
        """What a person may conclude."""
        low, high = self.interval.low, self.interval.high
        level = f"{100 * self.interval.coverage:.0f}%"
        if high < 1:
            return f"{b} is {1 / self.ratio:.3g} times as fast as {a} ({level}: {1 / high:.4g} to {1 / low:.4g})"
        if low > 1:
            return f"{b} takes {self.ratio:.3g} times as long as {a} ({level}: {low:.4g} to {high:.4g})"
        return f"no difference shown: {b} takes {low:.4g} to {high:.4g} times as long as {a} ({level})"


def compare_in_turn(a: Sampler, b: Sampler, seconds: float) -> Outcome:
    """Time both for about `seconds` together, in rounds of A B B A, and compare them on the best clock both have.

    In a round of A B B A a slow linear drift adds the same to both sides; the interval resamples whole rounds
    (`stats.interleaved_ratio`), so drift across rounds does not widen it either.
    """
    count = max(1, round(TURN_SECONDS / max(a.call_seconds, b.call_seconds, 1e-9)))
    round_seconds = 2 * (count + 1) * (a.call_seconds + b.call_seconds)
    rounds = max(ROUNDS_MIN, min(ROUNDS_MAX, int(seconds / max(round_seconds, 1e-9))))
    a_turns: list[tuple[Samples, Samples]] = []
    b_turns: list[tuple[Samples, Samples]] = []
    for _ in range(rounds):
        first, second, third, fourth = a.take(count), b.take(count), b.take(count), a.take(count)
        a_turns.append((first, fourth))
        b_turns.append((second, third))
    on_device = all(turn.device_ms is not None for pair in (*a_turns, *b_turns) for turn in pair)
    a_ms, b_ms = (_samples(turns, on_device) for turns in (a_turns, b_turns))
    ratio, interval = stats.interleaved_ratio(b_ms, a_ms, CONFIDENCE)
    every_a, every_b = ([ms for row in rows for ms in row] for rows in (a_ms, b_ms))
    return Outcome(
        clock="device" if on_device else "host",
        a_ms=stats.median(every_a),
        b_ms=stats.median(every_b),
        ratio=ratio,
        interval=interval,
        rounds=rounds,
        samples=len(every_a),
        launch_bound=on_device and any(2 * _late(turns) > len(every_a) for turns in (a_turns, b_turns)),
    )


def _late(turns: list[tuple[Samples, Samples]]) -> int:
    return sum(turn.late for pair in turns for turn in pair)


def _samples(turns: list[tuple[Samples, Samples]], on_device: bool) -> list[list[float]]:
    """One list of samples a round."""
    return [[ms for turn in pair for ms in ((turn.device_ms if on_device else turn.host_ms) or ())] for pair in turns]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found. `pictures` is the drift of B's frames against A's.

    It is None where the stage makes no pictures, where seeded weights make none that mean anything, and where B's
    checkout cannot hand them over.
    """

    latency: Outcome
    pictures: Drift | None

    def sentences(self, a: str, b: str) -> tuple[str, ...]:
        """What a person may conclude: on the latency and, where known, on the pictures."""
        drift = self.pictures
        times: tuple[str, ...] = (self.latency.sentence(a, b),)
        if self.latency.launch_bound:
            times += ("most device times include waiting for the host, which enqueues for longer than it can be given",)
        if drift is None:
            return times
        frames = len(drift.psnr_db)
        if drift.has_non_finite:
            apart = f"{sum(drift.non_finite)} of {frames} frames of {b} hold NaN or infinity"
        elif drift.max_lsb_worst == 0 and all(value is None for value in drift.psnr_db):
            apart = f"the same pictures, bit for bit, over {frames} frames"
        else:
            lsb = drift.max_lsb_worst
            apart = (
                f"pictures agree to {drift.psnr_min:.1f} dB in the worst of {frames} frames, no pixel more than "
                f"{lsb} level{'' if lsb == 1 else 's'} apart"
            )
        return *times, apart


def compare_sides(
    a: Side, b: Side, conditions: Conditions, checkout: Path | None, seconds: float, report: Reporter
) -> Comparison:
    """Compare `a` with `b`; with a `checkout`, B runs in that checkout. ValueError where a side cannot run."""
    suite = conditions.suite(report)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(local_side(a, conditions, suite))
        other: Sampler
        if checkout is None:
            other = stack.enter_context(local_side(b, conditions, suite))
        else:
            other = remote = stack.enter_context(remote_side(b, conditions, checkout))
            if not remote.times_alike and suite.device.type == "cuda":
                report.log(f"{checkout} takes device times in another way: host times are compared")
        latency = compare_in_turn(here, other, seconds)
        pictures = None
        if conditions.stage == "generator" and suite.drift_is_meaningful:
            pictures = _pictures(here, other, a.label(), report)
    return Comparison(latency, pictures)


def _pictures(here: Sampler, other: Sampler, name: str, report: Reporter) -> Drift | None:
    frames, others = here.render(), other.render()
    if frames is None or others is None:
        report.log("pictures are not compared: the other checkout is too old to hand them over")
        return None
    return measure_drift(frames, others, reference_name=name)
