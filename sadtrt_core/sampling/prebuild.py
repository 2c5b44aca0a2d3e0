"""Builds the engines that timing the samplers will need, several at a time, before anything is timed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from rich.console import Console

from sadtrt_core.engine.job import BuildJob
from sadtrt_core.prebuild import build_engines
from sadtrt_core.sampling.engine import sampler_job
from sadtrt_core.sampling.methods import SamplingMethod, Setting
from sadtrt_core.sampling.shapes import SamplingShape

#: One row of the benchmark: which method, at which shape, with features of which type.
RowKey = tuple[str, SamplingShape, torch.dtype]


def row_key(method: SamplingMethod, setting: Setting) -> RowKey:
    """What tells a row from the others of one run."""
    return method.name, setting.shape, setting.dtype


def sampler_engines(rows: Iterable[tuple[SamplingMethod, Setting]]) -> dict[RowKey, BuildJob]:
    """The engines of those rows that run one and can run here."""
    return {
        row_key(method, setting): sampler_job(
            setting.shape, setting.dtype, method.grid_sample, setting.cache, setting.options
        )
        for method, setting in rows
        if method.runner == "tensorrt" and method.grid_sample is not None and method.absence(setting) is None
    }


def build_sampler_engines(
    rows: Iterable[tuple[SamplingMethod, Setting]], processes: int, console: Console
) -> dict[RowKey, str]:
    """Build what the cache lacks; why, for each row whose engine could not be built."""
    jobs = sampler_engines(rows)
    outcomes = build_engines(list(jobs.values()), processes, console)
    return {key: outcome.failure for key, outcome in zip(jobs, outcomes, strict=True) if outcome.failure is not None}
