"""Plans as engines: which of those that a search found is the fastest that holds the budget in the shipped runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sadtrt_core.localise.report import Loss
from sadtrt_core.measure.timing import LatencySampler
from sadtrt_core.precision import Precision
from sadtrt_core.records.measurements import Drift
from sadtrt_core.runners.registry import RunnerKind
from sadtrt_core.search.trials import Budget
from sadtrt_core.suite import Suite


@dataclass(frozen=True)
class Confirmed:
    """What a precision costs in a runner: drift over all frames, median latency of the generator at batch 1 in ms."""

    precision: Precision
    drift: Drift
    latency_ms: float


def confirm(suite: Suite, kind: RunnerKind, precision: Precision) -> Confirmed:
    """Render the whole sequence and time the generator in a precision; builds an engine where the runner needs one.

    Raises ValueError with the reason where the runner cannot serve.
    """
    job = replace(suite.job("generator", kind, "fp32", 1), precision=precision)
    absence = kind.available(job)
    if absence is not None:
        raise ValueError(f"{kind.name} cannot confirm the plan: {absence}")
    with kind.create(job) as active:
        drift = suite.drift(suite.render_sequence(active, suite.frame_inputs))
        sampler = LatencySampler(active)
        for _ in range(suite.timing_plan.samples(sampler.warm_up(suite.timing_plan))):
            sampler.sample()
        latency = sampler.result()
    device = latency.device_ms_median
    return Confirmed(precision, drift, latency.host_ms_median if device is None else device)


def fastest(
    finalists: Sequence[Precision],
    measure: Callable[[Precision], Confirmed],
    budget: Budget,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Confirmed, bool]:
    """The fastest finalist that holds the budget and True; the one nearest to it and False where none does."""
    confirmed = []
    for precision in finalists:
        confirmed.append(measure(precision))
        loss = Loss.of(confirmed[-1].drift)
        say(f"{precision.name}: {confirmed[-1].latency_ms:.3f} ms, {loss.decibels:.1f} dB, LSB {loss.max_lsb}")
    holding = [item for item in confirmed if budget.met_by(Loss.of(item.drift))]
    if holding:
        return min(holding, key=lambda item: item.latency_ms), True
    return max(confirmed, key=lambda item: Loss.of(item.drift).decibels), False
