"""Joins what several benchmarks recorded under one key, such as latency from one and drift from another."""

from __future__ import annotations

import dataclasses

from sadtrt_core.errors import UserError
from sadtrt_core.records.schema import Record, Resources, Status


def merge_records(first: Record, second: Record) -> Record:
    """One record with the parts of both; where both measured a part the later one is kept and a note says so.

    A failure outweighs a measurement, and a measurement outweighs a skip, whose reason then becomes a note.
    Raises UserError if the keys or the benchmark versions differ.
    """
    if first.key != second.key:
        raise UserError(f"cannot merge {first.key.label()} with {second.key.label()}")
    if first.benchmark_version != second.benchmark_version:
        raise UserError(
            f"{first.key.label()} was recorded by benchmark versions {first.benchmark_version} and "
            f"{second.benchmark_version} in one run: benchmarks that share a key must share a version"
        )
    statuses = {first.status, second.status}
    status: Status = "failed" if "failed" in statuses else "measured" if "measured" in statuses else "skipped"
    reasons = [record.reason for record in (first, second) if record.status == status and record.reason]
    notes = [*first.notes, *second.notes]
    for record in (first, second):
        if record.status != status:
            notes.append(f"one part was {record.status}: {record.reason}" if record.reason else "")
    for part in ("latency", "drift"):
        if getattr(first, part) is not None and getattr(second, part) is not None:
            notes.append(f"{part} was measured more than once: the last is kept")
    return dataclasses.replace(
        first,
        status=status,
        reason="; ".join(dict.fromkeys(reasons)) or None,
        latency=second.latency or first.latency,
        drift=second.drift or first.drift,
        resources=_merge_resources(first.resources, second.resources),
        # Telemetry explains the times, so it stays with the record that brought the latency.
        telemetry=(second.telemetry or first.telemetry) if second.latency else (first.telemetry or second.telemetry),
        notes=tuple(dict.fromkeys(note for note in notes if note)),
    )


def _merge_resources(first: Resources | None, second: Resources | None) -> Resources | None:
    if first is None or second is None:
        return second or first
    memory = [value for value in (first.gpu_memory_mb, second.gpu_memory_mb) if value is not None]
    return Resources(
        gpu_memory_mb=max(memory) if memory else None,
        engine_mb=first.engine_mb if second.engine_mb is None else second.engine_mb,
        energy_mj_per_frame=(
            first.energy_mj_per_frame if second.energy_mj_per_frame is None else second.energy_mj_per_frame
        ),
    )
