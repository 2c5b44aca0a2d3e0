"""Holds the sum of the stage times against the time of the whole generator."""

from __future__ import annotations

from dataclasses import dataclass

from sadtrt_core.records.schema import Record, Run

WHOLE = "generator"
PARTS = ("appearance", "motion", "warp", "decode")
TOLERANCE = 0.10
"""How far the sum may lie from the whole, as a fraction, before the report points at it.

The parts run with a pause between them and write what the whole may fuse away, so they need not agree exactly.
"""


@dataclass(frozen=True)
class PartsSum:
    """Medians in ms of a generator and of its parts' sum, both on one clock, "device" or "host"."""

    whole: Record
    clock: str
    parts_ms: float
    whole_ms: float

    @property
    def difference(self) -> float:
        """The sum over the whole, minus one: 0.05 where the parts take 5% longer together."""
        return self.parts_ms / self.whole_ms - 1

    @property
    def agrees(self) -> bool:
        """Whether the difference is within TOLERANCE."""
        return abs(self.difference) <= TOLERANCE


def parts_against_whole(run: Run) -> tuple[PartsSum, ...]:
    """One entry for each measured generator whose four parts were measured the same way.

    A part counts with the whole's own grid sample, or with any other where it has just one.
    """
    sums = []
    for whole in run.records:
        if whole.key.stage != WHOLE or whole.latency is None:
            continue
        parts = [_part(run, whole, stage) for stage in PARTS]
        latencies = [part.latency for part in parts if part is not None and part.latency is not None]
        if len(latencies) < len(PARTS):
            continue
        everything = [whole.latency, *latencies]
        if all(latency.device_ms is not None for latency in everything):
            clock, times = "device", [latency.device_ms_median or 0.0 for latency in everything]
        else:
            clock, times = "host", [latency.host_ms_median for latency in everything]
        if times[0] > 0:
            sums.append(PartsSum(whole, clock, parts_ms=sum(times[1:]), whole_ms=times[0]))
    return tuple(sums)


def _part(run: Run, whole: Record, stage: str) -> Record | None:
    alike = [
        record
        for record in run.records
        if record.key.stage == stage
        and record.latency is not None
        and (record.key.runner, record.key.precision, record.key.batch)
        == (whole.key.runner, whole.key.precision, whole.key.batch)
    ]
    exact = [record for record in alike if record.key.grid_sample == whole.key.grid_sample]
    return exact[0] if exact else alike[0] if len(alike) == 1 else None
