"""`sadtrt search`: searches a plan for a suite's renderer and words it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from sadtrt_core.localise.parts import block_parts
from sadtrt_core.localise.report import Loss
from sadtrt_core.localise.run import candidates_of, versions
from sadtrt_core.localise.shapes import node_flops
from sadtrt_core.plan import Fact, Keep, Plan
from sadtrt_core.precision import Precision
from sadtrt_core.records.measurements import Drift
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.search.confirm import Confirmed, confirm, fastest
from sadtrt_core.search.greedy import Kept, Outcome, Search
from sadtrt_core.search.journal import Journal
from sadtrt_core.search.trials import Budget, Trials
from sadtrt_core.suite import Suite

Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """A plan that holds the budget, or None and why, with what the search saw."""

    plan: Plan | None
    refusal: str | None
    outcome: Outcome
    trials: int


def search_suite(
    suite: Suite,
    base: Precision,
    budget: Budget,
    name: str,
    worst: int = 4,
    say: Say = lambda line: None,
    tell: Callable[[int], None] = lambda count: None,
) -> Found:
    """The cheapest plan on `base` that holds the budget for the suite's renderer and workload.

    On a CPU the cost is the arithmetic kept in fp32; on a GPU the plans that the search narrowed down to are built by
    TensorRT and the fastest that holds the budget there is taken. Raises ValueError for a base that is not low or
    keeps something, or for a reference that cannot judge.
    """
    if base.compute == "float32" or base.keep_coordinates or base.names_nodes:
        raise ValueError(
            f"precision {base.name!r} is no base to search from: expected one that is low throughout, fp16"
        )
    if suite.device.type == "cuda":
        kind = runner_named("tensorrt")
        absence = kind.available(suite.job("generator", kind, base.name, 1))
        if absence is not None:
            raise ValueError(f"TensorRT cannot time plans here: {absence}; --device cpu counts arithmetic instead")
    reference = suite.reference
    if not reference.sound:
        raise ValueError(
            f"the reference cannot judge anything: repeatable {reference.repeatable}, "
            f"{reference.against_float64.psnr_min:.1f} dB against float64"
        )
    candidates = candidates_of(suite)
    graph = hashlib.sha256(candidates.graph.SerializeToString(deterministic=True)).hexdigest()
    key = {
        "weights": suite.renderer.weights.digest,
        "workload": suite.workload.digest,
        "graph": graph,
        "base": base.compute,
        "reference": suite.device.type,
        **{what: version for what, version in versions().items() if what != "commit"},
    }
    journal = Journal.open(suite.options.cache / "search", key, say)
    if journal.measured:
        say(f"going on from {len(journal.measured)} candidates measured before ({journal.path})")
    trials = Trials(candidates, reference.frames, base.compute, journal, tell)
    flops = node_flops(candidates.graph, candidates.shapes)
    search = Search(trials, block_parts(candidates.graph), flops, budget, worst, say)
    outcome = search.run()
    if not outcome.met:
        return Found(None, _refusal(outcome, budget), outcome, trials.rendered)
    plan = _plan(name, base, budget, outcome, suite, graph)
    if suite.device.type != "cuda":
        return Found(plan, None, outcome, trials.rendered)
    return _confirmed(suite, plan, search, outcome, budget, say, trials.rendered)


def _confirmed(
    suite: Suite, plan: Plan, search: Search, outcome: Outcome, budget: Budget, say: Say, rendered: int
) -> Found:
    """The fastest engine among the finalists in place of the least arithmetic."""
    kind = runner_named("tensorrt")
    plans = {}
    for number, parts in enumerate(outcome.finalists):
        kept = search.explained(parts, outcome.worst)
        plans[f"{plan.name}-{number}"] = replace(
            plan, name=f"{plan.name}-{number}", keep=_keeps(kept, plan.base), measured=plan.measured
        )
    best, holds = fastest(
        [p.precision for p in plans.values()], lambda precision: confirm(suite, kind, precision), budget, say
    )
    if not holds:
        loss = Loss.of(best.drift)
        words = f"TensorRT gives {loss.decibels:.1f} dB and {loss.max_lsb} of 255 at best, where {budget} is asked for"
        return Found(None, words, outcome, rendered)
    chosen = plans[best.precision.name]
    return Found(replace(chosen, name=plan.name, measured=_engine_facts(plan, best)), None, outcome, rendered)


def _engine_facts(plan: Plan, best: Confirmed) -> dict[str, Fact]:
    facts = dict(plan.measured)
    facts.pop("arithmetic_in_fp32", None)
    return {**facts, **_drift_facts(best.drift), "runner": "tensorrt", "latency_ms": round(best.latency_ms, 4)}


def _refusal(outcome: Outcome, budget: Budget) -> str:
    loss = Loss.of(outcome.drift)
    best = f"{loss.decibels:.1f} dB and {loss.max_lsb} of 255" if not loss.non_finite_frames else "frames not finite"
    kept = ", ".join(item.part.name for item in outcome.kept) or "nothing"
    if outcome.cost >= 1 - 1e-9:
        return f"only fp32 throughout holds {budget}: no plan is cheaper"
    return (
        f"no plan holds {budget}: the best found gives {best} with {outcome.cost:.1%} of the arithmetic in fp32 "
        f"({kept}); fp32 throughout gives {outcome.fp32.decibels:.1f} dB and {outcome.fp32.max_lsb} of 255"
    )


def _plan(name: str, base: Precision, budget: Budget, outcome: Outcome, suite: Suite, graph: str) -> Plan:
    weights, workload = suite.renderer.weights, suite.workload
    low = Loss.of(outcome.low)
    measured: dict[str, Fact] = {
        "budget_min_psnr_db": float(budget.min_psnr_db),
        **({} if budget.max_lsb is None else {"budget_max_lsb": budget.max_lsb}),
        **_drift_facts(outcome.drift),
        "arithmetic_in_fp32": round(outcome.cost, 6),
        "runner": "onnxruntime" if suite.device.type == "cpu" else "pytorch, the rounded graph",
        "reference": outcome.drift.reference,
        "meaningful": suite.drift_is_meaningful,
        "frames": workload.kp_driving.shape[0],
        "size": suite.renderer.config.image_size,
        "workload": f"{workload.name} {workload.digest[:16]}",
        "weights": f"{weights.kind} {weights.name} {weights.digest[:16]}",
    }
    if low.psnr_min_db is not None:
        measured["psnr_min_db_without"] = low.psnr_min_db
    why = f"the least found in fp32 that holds {budget} over {len(outcome.drift.psnr_db)} frames"
    return Plan(
        name, base.compute, why, _keeps(outcome.kept, base.compute), measured, {**versions(), "graph": graph[:16]}
    )


def _drift_facts(drift: Drift) -> dict[str, Fact]:
    return {
        "psnr_min_db": drift.psnr_min,
        "psnr_mean_db": drift.psnr_mean,
        "ssim_min": drift.ssim_min,
        "max_lsb": drift.max_lsb_worst,
    }


def _keeps(kept: tuple[Kept, ...], base: str) -> tuple[Keep, ...]:
    def why(item: Kept) -> str:
        loss = item.without
        without = f"{loss.psnr_min_db:.1f} dB" if loss.psnr_min_db is not None else "frames that are not finite"
        share = f"{item.cost:.2%} of the arithmetic"
        return f"were it {base}, the worst frames would come to {without}, {loss.max_lsb} of 255; {share}"

    return tuple(Keep(item.part.patterns, why(item)) for item in kept)
