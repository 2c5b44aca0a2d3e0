"""The words a gate answers in: findings on single metrics, rows, and the result with its exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from sadtrt_core.case import Case
from sadtrt_core.codec import JsonValue

Verdict = Literal["same", "faster", "slower", "worse picture", "heavier", "missing", "new", "not comparable"]
GRAVITY: tuple[Verdict, ...] = (
    "worse picture",
    "slower",
    "heavier",
    "not comparable",
    "missing",
    "new",
    "faster",
    "same",
)
"""A row's verdict is the first of these among its findings."""
REGRESSIONS: frozenset[Verdict] = frozenset({"worse picture", "slower", "heavier"})


class ExitCode(IntEnum):
    """What the gate's process returns."""

    PASS = 0
    REGRESSION = 1
    NOT_COMPARABLE = 2
    ROWS_MISSING = 3


EXIT_GRAVITY = (ExitCode.PASS, ExitCode.ROWS_MISSING, ExitCode.NOT_COMPARABLE, ExitCode.REGRESSION)
"""The exit codes, the gravest last."""
UNJUDGED = ("too_noisy", "baseline_climbs", "machine_busy", "host_differs", "in_doubt")
"""Reasons for which a metric beside others is not judged; its verdict is "same" then, and the row says so."""


@dataclass(frozen=True)
class Finding(JsonValue):
    """What one metric of one row says.

    `reason` is a stable code for machines and `sentence` the same for people. `change` is the quantity held against
    `limit`: percent of the baseline for times, sizes and energy, else the metric's own unit; positive is worse.
    `low` and `high` bound the change of a time with 99% confidence, `p_value` is the test's of a tail.
    """

    metric: str
    verdict: Verdict
    reason: str
    sentence: str
    baseline: float | None = None
    candidate: float | None = None
    change: float | None = None
    limit: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class GateRow(JsonValue):
    """One key's findings, gravest first; there is always at least one."""

    key: Case
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The gravest finding's verdict."""
        return self.findings[0].verdict

    @property
    def reason(self) -> str:
        """The gravest finding's reason code."""
        return self.findings[0].reason

    @property
    def detail(self) -> str:
        """All findings but those of metrics that are the same, and which were not judged, as one line."""
        told = [one.sentence for one in self.findings if one.verdict != "same"] or [self.findings[0].sentence]
        unjudged = (one.sentence for one in self.findings if one.verdict == "same" and one.reason in UNJUDGED)
        return "; ".join([*told, *(sentence for sentence in unjudged if sentence not in told)])

    def finding(self, metric: str) -> Finding | None:
        """The finding on one metric, or None."""
        return next((finding for finding in self.findings if finding.metric == metric), None)


@dataclass(frozen=True)
class GateResult(JsonValue):
    """The whole answer: rows in the order of their keys, what stands against comparing at all, and remarks."""

    exit_code: ExitCode
    rows: tuple[GateRow, ...]
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def count(self) -> dict[Verdict, int]:
        """How many rows got each verdict that occurs, gravest first."""
        counts = Counter(row.verdict for row in self.rows)
        return {verdict: counts[verdict] for verdict in GRAVITY if counts[verdict]}

    def headline(self) -> str:
        """One line: passed or not, and why."""
        counted = ", ".join(f"{number} {verdict}" for verdict, number in self.count().items()) or "no rows"
        words = {
            ExitCode.PASS: "passed",
            ExitCode.REGRESSION: "regression",
            ExitCode.NOT_COMPARABLE: "not comparable",
            ExitCode.ROWS_MISSING: "rows missing",
        }[self.exit_code]
        return f"gate: {words} ({counted})"


def with_anchor(result: GateResult, anchor: GateResult, name: str) -> GateResult:
    """One answer of two: by a baseline, and by the pinned run `name`, against which small steps add up.

    The exit code is the worse, each row has the findings of both, and the remarks have both headlines.
    """
    findings: dict[Case, list[Finding]] = {row.key: list(row.findings) for row in result.rows}
    for row in anchor.rows:
        findings.setdefault(row.key, []).extend(
            replace(one, metric=f"anchor {one.metric}", sentence=f"against {name}: {one.sentence}")
            for one in row.findings
        )
    return GateResult(
        max(result.exit_code, anchor.exit_code, key=EXIT_GRAVITY.index),
        tuple(make_row(key, findings[key]) for key in sorted(findings)),
        (*result.problems, *(f"against {name}: {problem}" for problem in anchor.problems)),
        (
            f"by the baseline: {result.headline()}; by the anchor {name}: {anchor.headline()}",
            *dict.fromkeys((*result.remarks, *(f"against {name}: {remark}" for remark in anchor.remarks))),
        ),
    )


def make_row(key: Case, findings: list[Finding]) -> GateRow:
    """A row with its findings sorted gravest first, in their own order among equals."""
    return GateRow(key, tuple(sorted(findings, key=lambda finding: GRAVITY.index(finding.verdict))))
