"""`sadtrt search`: the cheapest plan that holds a budget, found on the rounded graph and confirmed as engines."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.accuracy.confirm import Confirmed, confirm_all, fastest, verdict
from sadtrt_core.accuracy.findings import Budget, Loss, versions
from sadtrt_core.accuracy.greedy import Outcome, Trials, cheapest, explained, picture_words
from sadtrt_core.accuracy.parts import Part, keeping
from sadtrt_core.accuracy.plan_facts import engine_facts, plan_facts, write_engines
from sadtrt_core.accuracy.quantized import choose, quantizing
from sadtrt_core.accuracy.simulate import Simulator, simulator_of
from sadtrt_core.codec import json_digest
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import UserError
from sadtrt_core.files import code_digest, require_writable
from sadtrt_core.graph.typed import kept_nodes
from sadtrt_core.plan import Fact, Keep, Plan, Quantize, precision_named, require_plan_place, write_plan
from sadtrt_core.precision import COORDINATES, PICTURE, PLAN_SUFFIX, PRECISIONS, Precision, Quantization
from sadtrt_core.progress import SILENT, ConsoleReporter, Reporter
from sadtrt_core.runners.registry import RunnerKind, runner_named
from sadtrt_core.session import Session

PLANS_FOLDER = Path("plans")
#: TensorRT chooses arithmetic of its own inside the types it is given, and loses some dB more or less than the rounded
#: graph does. So plans that hold so many dB more than the budget there are built as well.
MARGINS_DB = (3.0, 6.0)
#: Of the code that was loaded.
_CODE = code_digest("accuracy")
#: Engines of the generator take minutes each.
_MOST_FINALISTS = 6
_BUILT_IN = PRECISIONS["fp16-mixed"]


@dataclass(frozen=True)
class Found:
    """A plan that holds the budget, or None, with what the search saw; `trials` is how many candidates were rendered.

    `outcome` is what a search for what stays fp32 narrowed down to; `engines` were built and measured. `said` are
    sentences: why there is no plan, and how it compares to the built-in fp16-mixed where the base is fp16.
    """

    plan: Plan | None
    said: list[str]
    outcome: Outcome | None
    trials: int
    engines: tuple[Confirmed, ...] = ()


def search_command(
    session: Session, budget: Budget, worst: int, out: Path | None, console: Console, errors: Console
) -> bool:
    """Search from the session's one precision, write the plan and say what was found; False where no plan holds it.

    Raises UserError for a name that no plan can have, before anything is measured.
    """
    (precision,) = session.options.precisions
    target = out or PLANS_FOLDER / f"{precision}-{budget.min_psnr_db:g}db{PLAN_SUFFIX}"
    if target.suffix != PLAN_SUFFIX:
        raise UserError(f"--out {target} is no name of a plan: expected one that ends in {PLAN_SUFFIX}")
    base, name = precision_named(precision), target.name.removesuffix(PLAN_SUFFIX)
    Plan(name, "float16", "to check the name")
    require_writable(target, file=True)
    require_plan_place(target)
    started = time.monotonic()
    with ConsoleReporter(errors) as reporter:
        try:
            found = search_session(session, base, budget, name, worst, reporter)
        except KeyboardInterrupt:
            reporter.log("interrupted: what was measured is kept, the same command goes on from there")
            raise
    if found.engines:
        console.print(write_engines(found.engines, target, time.monotonic() - started), markup=False, soft_wrap=True)
    if found.plan is None:
        console.print(" ".join(found.said), markup=False, soft_wrap=True)
        return False
    write_plan(found.plan, target)
    console.print(_table(found.plan))
    for line in (*found.said, f"{found.trials} candidates rendered; wrote {target}"):
        console.print(line, markup=False, soft_wrap=True)
    return True


def _table(plan: Plan) -> Table:
    # The plan's own figures: on a GPU they are the engine's, not those of the graph it was searched on.
    measured = plan.measured
    latency, share = measured.get("latency_ms"), measured.get("arithmetic_in_fp32")
    cost = f"{latency} ms"
    if latency is None:
        in_8_bits = measured.get("arithmetic_in_8_bits")
        cost = f"{share:.2%} in fp32" if in_8_bits is None else f"{in_8_bits:.2%} in eight bits"
    title = f"{plan.name}: {measured['psnr_min_db']:.1f} dB, max LSB {measured['max_lsb']}, {cost}"
    table = Table(title=title, title_justify="left")
    table.add_column("kept in fp32" if plan.quantize is None else "kept in fp32, then quantized", overflow="fold")
    table.add_column("why", overflow="fold")
    for part in plan.keep:
        table.add_row(escape("\n".join(part.nodes)), escape(part.why))
    if plan.quantize is not None:
        table.add_row(escape("\n".join(plan.quantize.nodes)), escape(plan.quantize.why))
    return table


def search_session(
    session: Session,
    base: Precision,
    budget: Budget,
    name: str,
    worst: int = 4,
    reporter: Reporter = SILENT,
    kind: RunnerKind | None = None,
    simulator: Simulator | None = None,
) -> Found:
    """The cheapest plan on `base` that holds the budget for the session's renderer and workload.

    On a CPU the cost is the arithmetic kept in fp32; on a GPU the plans that the search narrowed down to are built by
    TensorRT and the fastest that holds the budget there is taken. `kind` is another runner to do so in, `simulator`
    another way to render. A weak reference judges a budget that is well below what it is good for, which is said.
    Raises UserError for a base that is not low or keeps something, or for a reference that cannot judge the budget.
    """
    is_low = base.compute != "float32" and base == Precision(base.name, base.compute, base.why)
    is_mixed = replace(base, name=_BUILT_IN.name, why=_BUILT_IN.why, quantize=None) == _BUILT_IN
    if not is_low and not (is_mixed and base.quantize is not None):
        raise UserError(
            f"precision {base.name!r} is no base to search from: expected one that is low throughout, fp16, or int8 or "
            "fp8"
        )
    if session.on_gpu and kind is None:
        kind = runner_named("tensorrt")
        absence = session.unavailable(session.case("generator", kind.name, base.name))
        if absence is not None:
            raise UserError(f"TensorRT cannot time plans here: {absence}; --device cpu counts arithmetic instead")
    reference = session.reference
    # What decides is which side of the budget a plan is on.
    warning = reference.warning(budget.min_psnr_db)
    if warning is not None:
        reporter.log(warning)
    simulator = simulator or simulator_of(session, base.quantize is not None)
    seen = versions(torch.device("cpu"))
    seen["graph"] = hashlib.sha256(simulator.graph.SerializeToString(deterministic=True)).hexdigest()
    key = {
        **seen,
        "commit": _CODE,
        "weights": session.renderer.weights.digest,
        "workload": session.recorded_workload.digest,
        "base": base.compute if base.quantize is None else f"{base.name} {session.calibration.digest}",
        "device": read_environment(session.device).gpu or "cpu",
    }
    journal = session.options.cache / "search" / f"{json_digest(key)[:24]}.json"
    trials = Trials(simulator, reference.frames, base.compute, journal, reporter)
    versions_seen: dict[str, Fact] = {**seen, "graph": seen["graph"][:16]}
    if base.quantize is not None:
        return _quantized(session, kind, trials, base.quantize, budget, name, worst, versions_seen)
    outcome = cheapest(trials, budget, worst)
    if not outcome.met:
        return Found(None, [_refusal(outcome, budget)], outcome, trials.rendered)
    why = f"the least found in fp32 that holds {budget} over {len(trials.every_frame)} frames"
    keep = _keeps(trials, outcome.kept)
    facts = plan_facts(session, budget, outcome.drift) | {"arithmetic_in_fp32": round(outcome.cost, 6)}
    if outcome.low.psnr_min_db is not None:
        facts["psnr_min_db_without"] = outcome.low.psnr_min_db
    if warning is not None:
        facts["reference"] = f"{facts['reference']}, {warning}"
    plan = Plan(name, base.compute, why, keep, measured=facts, versions=versions_seen)
    if kind is None:
        return Found(plan, _beside(plan, trials, outcome), outcome, trials.rendered)
    finalists = _finalists(trials, outcome, budget, worst)
    keeps = [_keeps(trials, explained(trials, parts, outcome.worst)) for parts in finalists]
    fastest_plan, said, done = _fastest_engine(session, kind, plan, keeps, base, budget, reporter)
    return Found(fastest_plan, said, outcome, trials.rendered, done)


def _quantized(
    session: Session,
    kind: RunnerKind | None,
    trials: Trials,
    quantize: Quantization,
    budget: Budget,
    name: str,
    worst: int,
    seen: dict[str, Fact],
) -> Found:
    """The plan on fp16-mixed with the convolutions in eight bits that make it the fastest within the budget."""

    def measure(precisions: Sequence[Precision]) -> list[Confirmed]:
        assert kind is not None
        return confirm_all(session, kind, precisions, trials.reporter)

    chosen = choose(trials, _BUILT_IN, quantize.type, budget, worst, None if kind is None else measure)
    engine, plain = chosen.engine, next((one for one in chosen.engines if one.precision.quantize is None), None)
    if chosen.pieces is None:
        why = f"no {quantize.type} plan that is faster than {_BUILT_IN.name} holds {budget}"
        best = f": with what may be in eight bits the types alone hold {picture_words(chosen.simulated)}"
        return Found(None, [why + best], None, trials.rendered, chosen.engines)
    drift = trials.of(quantizing(_BUILT_IN, chosen.pieces, quantize.type), trials.every_frame)
    facts = plan_facts(session, budget, drift)
    facts["arithmetic_in_8_bits"] = round(trials.cost(node for piece in chosen.pieces for node in piece.nodes), 6)
    facts["calibration"] = session.calibration.digest[:16]
    said = []
    if kind is not None and engine is not None:
        if (types := chosen.simulated.psnr_min_db) is not None:
            facts["types_psnr_min_db"] = types
        facts |= engine_facts(session, kind, engine, [plain] if plain else [])
        said = [verdict(name, engine, plain)] if plain else []
    why = f"the {'most arithmetic' if engine is None else 'fastest engine found'} that holds {budget}"
    nodes = tuple(node for piece in chosen.pieces for node in piece.nodes)
    keep = (Keep((COORDINATES, PICTURE), f"as {_BUILT_IN.name} keeps them"),)
    plan = Plan(name, _BUILT_IN.compute, why, keep, facts, seen, Quantize(quantize.type, nodes, why))
    return Found(plan, said, None, trials.rendered, chosen.engines)


def _finalists(trials: Trials, outcome: Outcome, budget: Budget, worst: int) -> list[tuple[Part, ...]]:
    """What the search narrowed down to, for the budget and for more than it; no two that are the same graph."""
    found = list(outcome.finalists[:2])
    for more in MARGINS_DB:
        wider = Budget(budget.min_psnr_db + more, budget.max_lsb)
        if not wider.met_by(outcome.fp32):
            break
        further = cheapest(trials, wider, worst)
        if not further.met:
            break
        found += further.finalists[:2]
    distinct: dict[tuple[frozenset[str], bool], tuple[Part, ...]] = {}
    for parts in (*found, *outcome.finalists[2:]):
        precision = keeping(trials.base, parts)
        distinct.setdefault((kept_nodes(trials.simulator.graph, precision), precision.rounds_grids), parts)
    return list(distinct.values())[:_MOST_FINALISTS]


def _fastest_engine(
    session: Session,
    kind: RunnerKind,
    plan: Plan,
    keeps: Sequence[tuple[Keep, ...]],
    base: Precision,
    budget: Budget,
    reporter: Reporter,
) -> tuple[Plan | None, list[str], tuple[Confirmed, ...]]:
    """`plan` with what the fastest engine keeps that holds the budget, or None; why; and all engines."""
    # A plan's name has 64 letters at most.
    named = {f"{plan.name[:60]}-{number}": keep for number, keep in enumerate(keeps)}
    precisions = [replace(plan, name=name, keep=keep).precision for name, keep in named.items()]
    builtin = [_BUILT_IN] if base.compute == _BUILT_IN.compute else []
    done = confirm_all(session, kind, [*precisions, *builtin, base], reporter)
    own = [item for item in done if item.precision.name in named]
    others = [item for item in done if item.precision.name not in named]
    if not own:
        raise UserError(f"{kind.name} built none of the {len(named)} plans that hold {budget}")
    best = fastest(own, budget)
    beside = [verdict(plan.name, best, item) for item in others if item.precision is _BUILT_IN]
    if not budget.met_by(best.loss):
        return None, [f"{kind.name} gives {best.loss} at best, where {budget} is asked for", *beside], tuple(done)
    facts = {**plan.measured, **engine_facts(session, kind, best, others)}
    del facts["arithmetic_in_fp32"]
    return replace(plan, keep=named[best.precision.name], measured=facts), beside, tuple(done)


def _beside(plan: Plan, trials: Trials, outcome: Outcome) -> list[str]:
    """The plan beside the built-in one where nothing is timed: by arithmetic and by picture."""
    if plan.base != _BUILT_IN.compute:
        return []
    loss = Loss.of(trials.of(_BUILT_IN, trials.every_frame))
    share = trials.cost(kept_nodes(trials.simulator.graph, _BUILT_IN))
    own = f"{plan.name} keeps {outcome.cost:.3%} of the arithmetic in fp32 and gives {Loss.of(outcome.drift)}"
    return [f"{own}; the built-in {_BUILT_IN.name} keeps {share:.3%} and gives {loss}"]


def _refusal(outcome: Outcome, budget: Budget) -> str:
    if outcome.cost >= 1 - 1e-9:
        return f"only fp32 throughout holds {budget}: no plan is cheaper"
    kept = ", ".join(part.name for part in outcome.kept) or "nothing"
    return (
        f"no plan holds {budget}: the best found gives {picture_words(Loss.of(outcome.drift))} with {outcome.cost:.1%} "
        f"of the arithmetic in fp32 ({kept}); fp32 throughout gives {picture_words(outcome.fp32)}"
    )


def _keeps(trials: Trials, kept: Mapping[Part, Loss]) -> tuple[Keep, ...]:
    def why(part: Part, without: Loss) -> str:
        finite = without.psnr_min_db is not None
        picture = f"{without.psnr_min_db:.1f} dB" if finite else "frames that are not finite"
        return (
            f"were it {trials.base}, the worst frames would come to {picture}, {without.max_lsb} of 255; "
            f"{trials.cost(part.nodes):.2%} of the arithmetic"
        )

    return tuple(Keep(part.patterns, why(part, without)) for part, without in kept.items())
