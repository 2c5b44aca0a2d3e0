"""`sadtrt search`: searches a plan for a suite's renderer and words it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sadtrt_core.accuracy.confirm import Confirmed, Say, confirm_all, fastest, loss_words, verdict
from sadtrt_core.accuracy.drift import simulator_of, versions
from sadtrt_core.accuracy.findings import Loss
from sadtrt_core.accuracy.greedy import Kept, Outcome, Search
from sadtrt_core.accuracy.journal import Journal
from sadtrt_core.accuracy.parts import Part, block_parts, node_flops
from sadtrt_core.accuracy.trials import Budget, Trials, keeping
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import UserError
from sadtrt_core.files import code_digest
from sadtrt_core.graph.typed import kept_nodes
from sadtrt_core.plan import Fact, Keep, Plan
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.records.measurements import Drift
from sadtrt_core.runners.registry import RunnerKind, grid_sample_label, runner_named
from sadtrt_core.session import Session

#: TensorRT chooses arithmetic of its own inside the types it is given, and loses some dB more or less than the rounded
#: graph does. So plans that hold so many dB more than the budget there are built as well.
_MARGINS_DB = (3.0, 6.0)
#: Engines of the generator take minutes each.
_MOST_FINALISTS = 6
_BUILT_IN = PRECISIONS["fp16-mixed"]


@dataclass(frozen=True)
class Found:
    """A plan that holds the budget, or None and why, with what the search saw.

    `beside` is one sentence that sets the plan beside the built-in fp16-mixed, where the base is fp16.
    """

    plan: Plan | None
    refusal: str | None
    outcome: Outcome
    trials: int
    beside: str | None = None


def search_session(
    suite: Session,
    base: Precision,
    budget: Budget,
    name: str,
    worst: int = 4,
    say: Say = lambda line: None,
    tell: Callable[[int], None] = lambda count: None,
    kind: RunnerKind | None = None,
) -> Found:
    """The cheapest plan on `base` that holds the budget for the suite's renderer and workload.

    On a CPU the cost is the arithmetic kept in fp32; on a GPU the plans that the search narrowed down to are built by
    TensorRT and the fastest that holds the budget there is taken. `kind` is another runner to do so in. Raises
    UserError for a base that is not low or keeps something, or for a reference that cannot judge.
    """
    if base.compute == "float32" or base != Precision(base.name, base.compute, base.why):
        raise UserError(f"precision {base.name!r} is no base to search from: expected one that is low throughout, fp16")
    if suite.device.type == "cuda" and kind is None:
        kind = runner_named("tensorrt")
        absence = suite.unavailable(suite.case("generator", kind.name, base.name))
        if absence is not None:
            raise UserError(f"TensorRT cannot time plans here: {absence}; --device cpu counts arithmetic instead")
    reference = suite.reference
    if not reference.sound:
        raise UserError(
            f"the reference cannot judge anything: repeatable {reference.repeatable}, "
            f"{reference.against_float64.psnr_min:.1f} dB against float64"
        )
    simulator = simulator_of(suite)
    graph = hashlib.sha256(simulator.graph.SerializeToString(deterministic=True)).hexdigest()
    key = {
        "weights": suite.renderer.weights.digest,
        "workload": suite.workload.digest,
        "graph": graph,
        "base": base.compute,
        "reference": read_environment(suite.device).gpu or "cpu",
        "code": code_digest("accuracy"),
        **{what: version for what, version in versions().items() if what != "commit"},
    }
    journal = Journal.open(suite.options.cache / "search", key, say)
    if journal.measured:
        say(f"going on from {len(journal.measured)} candidates measured before ({journal.path})")
    trials = Trials(simulator, reference.frames, base.compute, journal, tell)
    flops = node_flops(simulator.graph, simulator.shapes)
    parts = block_parts(simulator.graph)

    def search_for(wanted: Budget) -> Search:
        return Search(trials, parts, flops, wanted, worst, say)

    search = search_for(budget)
    outcome = search.run()
    if not outcome.met:
        return Found(None, _refusal(outcome, budget), outcome, trials.rendered)
    plan = _plan(name, base, budget, outcome, suite, graph)
    if kind is None:
        return Found(plan, None, outcome, trials.rendered, _beside(plan, search, outcome))
    finalists = _finalists(search_for, outcome, budget)
    return replace(_confirmed(suite, kind, plan, base, search, outcome, finalists, budget, say), trials=trials.rendered)


def _finalists(search_for: Callable[[Budget], Search], outcome: Outcome, budget: Budget) -> list[tuple[Part, ...]]:
    """What the search narrowed down to, for the budget and for more than it; no two that are the same graph."""
    found = list(outcome.finalists[:2])
    for more in _MARGINS_DB:
        wider = Budget(budget.min_psnr_db + more, budget.max_lsb)
        if not wider.met_by(outcome.fp32):
            break
        further = search_for(wider).run()
        if not further.met:
            break
        found += further.finalists[:2]
    search = search_for(budget)
    distinct: dict[tuple[frozenset[str], bool], tuple[Part, ...]] = {}
    for parts in (*found, *outcome.finalists[2:]):
        precision = keeping(search.trials.base, parts)
        distinct.setdefault((kept_nodes(search.graph, precision), precision.rounds_grids), parts)
    return list(distinct.values())[:_MOST_FINALISTS]


def _confirmed(
    suite: Session,
    kind: RunnerKind,
    plan: Plan,
    base: Precision,
    search: Search,
    outcome: Outcome,
    finalists: Sequence[tuple[Part, ...]],
    budget: Budget,
    say: Say,
) -> Found:
    """The fastest engine among the finalists in place of the least arithmetic, and how the built-in plan compares."""
    plans = {}
    for number, parts in enumerate(finalists):
        kept = search.explained(parts, outcome.worst)
        candidate = f"{plan.name[:60]}-{number}"  # A plan's name has 64 letters at most.
        plans[candidate] = replace(plan, name=candidate, keep=_keeps(kept, plan.base))
    beside = [base] if base.compute != _BUILT_IN.compute else [_BUILT_IN, base]
    done = confirm_all(suite, kind, [*(p.precision for p in plans.values()), *beside], say)
    own = [item for item in done if item.precision.name in plans]
    if not own:
        raise UserError(f"{kind.name} built none of the {len(plans)} plans that hold {budget}")
    best, holds = fastest(own, budget)
    builtin = next((item for item in done if item.precision is _BUILT_IN), None)
    words = None if builtin is None else verdict(plan.name, best, builtin)
    if not holds:
        refusal = f"{kind.name} gives {loss_words(Loss.of(best.drift))} at best, where {budget} is asked for"
        return Found(None, refusal, outcome, 0, words)
    chosen = plans[best.precision.name]
    facts = _engine_facts(suite, kind, plan, best, [item for item in done if item.precision in beside])
    return Found(replace(chosen, name=plan.name, measured=facts), None, outcome, 0, words)


def _beside(plan: Plan, search: Search, outcome: Outcome) -> str | None:
    """The plan beside the built-in one where nothing is timed: by arithmetic and by picture."""
    if plan.base != _BUILT_IN.compute:
        return None
    drift = search.trials.of(_BUILT_IN, search.trials.every_frame)
    share = search.share(kept_nodes(search.graph, _BUILT_IN))
    return (
        f"{plan.name} keeps {outcome.cost:.3%} of the arithmetic in fp32 and gives "
        f"{loss_words(Loss.of(outcome.drift))}; the built-in {_BUILT_IN.name} keeps {share:.3%} and gives "
        f"{loss_words(Loss.of(drift))}"
    )


def _engine_facts(
    suite: Session, kind: RunnerKind, plan: Plan, best: Confirmed, beside: Sequence[Confirmed]
) -> dict[str, Fact]:
    facts = dict(plan.measured)
    facts.pop("arithmetic_in_fp32", None)
    job = suite.job(suite.case("generator", kind.name, "fp32"))
    here = read_environment(suite.device)
    facts |= {**_drift_facts(best.drift), "runner": kind.name, "latency_ms": round(best.latency_ms, 4)}
    facts |= {"device": here.gpu or here.cpu, "grid_sample": grid_sample_label(kind, job.stage, job.grid_sample)}
    if here.gpu is not None:
        facts |= {"tensorrt": here.tensorrt or "unknown", "optimization_level": job.optimization_level}
    for item in beside:
        word = item.precision.name.replace("-", "_")
        facts |= {f"{word}_latency_ms": round(item.latency_ms, 4), f"{word}_max_lsb": item.drift.max_lsb_worst}
        if not item.drift.has_non_finite:
            facts[f"{word}_psnr_min_db"] = item.drift.psnr_min
    return facts


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


def _plan(name: str, base: Precision, budget: Budget, outcome: Outcome, suite: Session, graph: str) -> Plan:
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
