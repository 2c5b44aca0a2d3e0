"""What `sadtrt search` does between its options and its exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.accuracy.search import search_session
from sadtrt_core.accuracy.trials import Budget
from sadtrt_core.errors import UserError
from sadtrt_core.plan import Plan, precision_named, write_plan
from sadtrt_core.precision import PLAN_SUFFIX
from sadtrt_core.progress import ConsoleReporter, shown_progress
from sadtrt_core.session import Session

PLANS_FOLDER = Path("plans")


def search_command(
    asked: Session,
    precision: str,
    min_psnr: float,
    max_lsb: int | None,
    frames: int,
    worst: int,
    out: Path | None,
    console: Console,
    errors: Console,
) -> bool:
    """Search, write the plan and say what was found; False where no plan holds the budget.

    Raises UserError for a name that no plan can have, before anything is measured.
    """
    target = out or PLANS_FOLDER / f"{precision}-{min_psnr:g}db{PLAN_SUFFIX}"
    if target.suffix != PLAN_SUFFIX:
        raise UserError(f"--out {target} is no name of a plan: expected one that ends in {PLAN_SUFFIX}")
    base = precision_named(precision)
    name = target.name.removesuffix(PLAN_SUFFIX)
    Plan(name, "float16", "to check the name")
    suite = Session(replace(asked.options, frames=frames), report=ConsoleReporter(errors))
    budget = Budget(min_psnr, max_lsb)

    def say(line: str) -> None:
        errors.print(line, markup=False, soft_wrap=True)

    try:
        with shown_progress(errors) as tell:
            found = search_session(
                suite, base, budget, name, worst, say, lambda count: tell("trying candidates", count, None)
            )
    except KeyboardInterrupt:
        say("interrupted: what was measured is kept, the same command goes on from there")
        raise
    if found.plan is None:
        console.print(" ".join(filter(None, (found.refusal, found.beside))), markup=False, soft_wrap=True)
        return False
    write_plan(found.plan, target)
    console.print(_table(found.plan))
    if found.beside is not None:
        console.print(found.beside, markup=False, soft_wrap=True)
    console.print(f"{found.trials} candidates rendered; wrote {target}", markup=False, soft_wrap=True)
    return True


def _table(plan: Plan) -> Table:
    # The plan's own figures: on a GPU they are the engine's, not those of the graph it was searched on.
    measured = plan.measured
    cost = (
        f"{measured['latency_ms']} ms" if "latency_ms" in measured else f"{measured['arithmetic_in_fp32']:.2%} in fp32"
    )
    table = Table(
        title=f"{plan.name}: {measured['psnr_min_db']:.1f} dB, max LSB {measured['max_lsb']}, {cost}",
        title_justify="left",
    )
    table.add_column("kept in fp32", overflow="fold")
    table.add_column("why", overflow="fold")
    for part in plan.keep:
        table.add_row(escape("\n".join(part.nodes)), escape(part.why))
    return table
