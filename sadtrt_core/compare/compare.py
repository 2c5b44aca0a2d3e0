"""Interleaved comparison: two runners, engines or checkouts in turn, A B B A, so that what drifts drifts for both."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sadtrt_core import stats
from sadtrt_core.compare.sides import Sampler, Samples, Side, local_side, remote_side
from sadtrt_core.errors import UserError
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.records.measurements import Drift
from sadtrt_core.renderer.stages import RENDERING
from sadtrt_core.session import Session

CONFIDENCE = 0.95
SAMPLING_SECONDS = 0.03
"""About how long one side is sampled before the other is."""
ROUNDS_MIN, ROUNDS_MAX = 10, 200


@dataclass(frozen=True)
class Comparison:
    """Medians in ms of both sides on one clock, and the ratio B over A with its interval; above 1, B is slower.

    `launch_bound` says that most device times of a side include waiting for the host. `pictures` is the drift of B's
    frames against A's. It is None where the stage makes no pictures, where seeded weights make none that mean anything,
    and where B's checkout cannot hand them over.
    """

    clock: str
    a_ms: float
    b_ms: float
    ratio: float
    interval: stats.Interval
    rounds: int
    samples: int
    launch_bound: bool = False
    pictures: Drift | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON has them."""
        pictures = self.pictures.to_json() if self.pictures else None
        return {**dataclasses.asdict(self), "pictures": pictures}

    def sentences(self, a: str, b: str) -> tuple[str, ...]:
        """What a person may conclude: on the latency and, where known, on the pictures."""
        low, high = self.interval.low, self.interval.high
        level = f"{100 * self.interval.coverage:.0f}%"
        if high < 1:
            found = f"{b} is {1 / self.ratio:.3g} times as fast as {a} ({level}: {1 / high:.4g} to {1 / low:.4g})"
        elif low > 1:
            found = f"{b} takes {self.ratio:.3g} times as long as {a} ({level}: {low:.4g} to {high:.4g})"
        else:
            found = f"no difference shown: {b} takes {low:.4g} to {high:.4g} times as long as {a} ({level})"
        times: tuple[str, ...] = (found,)
        if self.launch_bound:
            times += ("most device times include waiting for the host, which enqueues for longer than it can be given",)
        drift = self.pictures
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


def compare_interleaved(a: Sampler, b: Sampler, seconds: float) -> Comparison:
    """Time both for about `seconds` together, in rounds of A B B A, and compare them on the best clock both have.

    In a round of A B B A a slow linear drift adds the same to both sides; the interval is of whole rounds' ratios
    (`stats.paired_ratio`), so drift across rounds does not widen it either.
    """
    count = max(1, round(SAMPLING_SECONDS / max(a.call_seconds, b.call_seconds, 1e-9)))
    round_seconds = 2 * (count + 1) * (a.call_seconds + b.call_seconds)
    rounds = max(ROUNDS_MIN, min(ROUNDS_MAX, int(seconds / max(round_seconds, 1e-9))))
    a_samples: list[tuple[Samples, Samples]] = []
    b_samples: list[tuple[Samples, Samples]] = []
    for _ in range(rounds):
        first, second, third, fourth = a.sample(count), b.sample(count), b.sample(count), a.sample(count)
        a_samples.append((first, fourth))
        b_samples.append((second, third))
    on_device = all(one.device_ms is not None for pair in (*a_samples, *b_samples) for one in pair)
    a_ms, b_ms = (_times(pairs, on_device) for pairs in (a_samples, b_samples))
    ratio, interval = stats.paired_ratio(b_ms, a_ms, CONFIDENCE)
    every_a, every_b = ([ms for row in rows for ms in row] for rows in (a_ms, b_ms))
    late = max(sum(one.late for pair in pairs for one in pair) for pairs in (a_samples, b_samples))
    return Comparison(
        clock="device" if on_device else "host",
        a_ms=stats.median(every_a),
        b_ms=stats.median(every_b),
        ratio=ratio,
        interval=interval,
        rounds=rounds,
        samples=len(every_a),
        launch_bound=on_device and 2 * late > len(every_a),
    )


def _times(pairs: list[tuple[Samples, Samples]], on_device: bool) -> list[list[float]]:
    """One list of times in ms a round."""
    return [[ms for one in pair for ms in ((one.device_ms if on_device else one.host_ms) or ())] for pair in pairs]


def compare_sides(a: Side, b: Side, session: Session, checkout: Path | None, seconds: float) -> Comparison:
    """Compare `a` with `b`; with a `checkout`, B runs in that checkout.

    Raises UserError where a side cannot run, or the checkout renders with other weights.
    """
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(local_side(a, session))
        other: Sampler
        same_frames = True
        if checkout is None:
            other = stack.enter_context(local_side(b, session))
        else:
            other = remote = stack.enter_context(remote_side(b, session.options, checkout))
            if remote.weights not in (None, session.renderer.weights.digest):
                raise UserError(
                    f"{checkout} renders with other weights, so that times and pictures are not of the same network: "
                    "name a file that both can read as --checkpoint"
                )
            same_frames = remote.workload in (None, session.workload.digest)
            if not remote.times_alike and session.on_gpu:
                session.report.log(f"{checkout} takes device times in another way: host times are compared")
        found = compare_interleaved(here, other, seconds)
        # Of the generator alone with another checkout, which may know no other pictures.
        if a.case.stage not in (RENDERING if checkout is None else RENDERING[:1]) or not session.drift_is_meaningful:
            return found
        if not same_frames:
            session.report.log("pictures are not compared: the other checkout renders other frames")
            return found
        pictures = compare_pictures(here, other, a.label)
        if pictures is None:
            session.report.log("pictures are not compared: the other checkout is too old to hand them over")
        return dataclasses.replace(found, pictures=pictures)


def compare_pictures(a: Sampler, b: Sampler, name: str) -> Drift | None:
    """Drift of B's frames against those of A, which is called `name`; None where a side cannot hand over its own."""
    frames, others = a.render(), b.render()
    return None if frames is None or others is None else measure_drift(frames, others, reference_name=name)
