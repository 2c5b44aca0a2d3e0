"""The gate's answer on files and on baselines' names, where one that cannot be read is an answer too."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from sadtrt_core.errors import UserError
from sadtrt_core.gate.baselines import FURTHER_FOLDER, find_baseline, further_runs
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import ExitCode, GateResult, with_anchor
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import LATEST, RECORDS_FILE, begun_after, read_run, records_file


def gate_files(candidate: Path, baseline: Path, thresholds: Thresholds) -> GateResult:
    """`compare_runs` on two results folders or records files.

    Exit code 2 with the reason where one cannot be read, where both are the same run, which would always pass, and
    where the candidate is `latest` but a later run did not finish.
    """
    problems = []
    runs = []
    others: tuple[Run, ...] = ()
    for name, path in (("the run", candidate), ("the baseline", baseline)):
        try:
            runs.append(read_run(path))
        except UserError as error:
            problems.append(f"{name} cannot be used: {error}")
    try:
        others = further_runs(baseline)
    except UserError as error:
        problems.append(f"a further run of the baseline cannot be used: {error}")
    if not problems and runs[0] in (runs[1], *others):
        problems.append(f"the run and the baseline are the same run, {records_file(candidate)}: nothing was compared")
    named = candidate.parent if candidate.name == RECORDS_FILE else candidate
    if named.name == LATEST and (later := begun_after(named)):
        problems.append(f"{later} began after {named} and did not finish: run it again, or name the run to judge")
    if problems:
        return GateResult(ExitCode.NOT_COMPARABLE, (), tuple(problems))
    return compare_runs(runs[0], runs[1], thresholds, others)


def gate_inputs(candidate: Path, results: Path, baselines: Sequence[str]) -> set[Path]:
    """Every file that `gate_named` reads of the run and of the baselines, by name or path, that there are."""
    found = [records_file(candidate)]
    for name in baselines:
        with contextlib.suppress(UserError):  # The answer says that there is none.
            path = find_baseline(results, name)
            found += [records_file(path), *(path / FURTHER_FOLDER).glob("*.json")]
    return {path.resolve() for path in found}


def gate_named(
    candidate: Path, results: Path, baseline: str, thresholds: Thresholds, anchor: str | None = None
) -> GateResult:
    """`gate_files` with a baseline's name in `<results>/baselines` or its path; exit code 2 where there is none.

    With an `anchor`, named likewise, the answer by both.
    """
    try:
        result = gate_files(candidate, find_baseline(results, baseline), thresholds)
    except UserError as error:
        result = GateResult(ExitCode.NOT_COMPARABLE, (), (str(error),))
    return result if anchor is None else with_anchor(result, gate_named(candidate, results, anchor, thresholds), anchor)
