from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from record_examples import WEIGHTS, drift, key, latency, measured, run_of
from rich.console import Console

from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.output import MARKDOWN_LIMIT, gate_json, gate_junit, gate_markdown, print_gate
from sadtrt_core.gate.verdicts import ExitCode, GateResult
from sadtrt_core.records.schema import Record, Run

NASTY = "died <b>&amp; \x00\x1b[31m\ud800 | [bold]@team[/] ]]> \n next"


def gate(candidate: Run, baseline: Run) -> GateResult:
    return compare_runs(candidate, baseline, Thresholds())


@pytest.fixture(scope="module")
def mixed() -> GateResult:
    baseline = run_of(*(measured(key(stage)) for stage in ("generator", "warp", "decode", "motion", "appearance")))
    candidate = run_of(
        measured(),
        measured(key("warp"), latency=latency(6.0, seed=3)),
        Record(key("decode"), "failed", NASTY),
        measured(key("motion"), drift=drift((60.0, 72.0))),
        measured(key("clip")),
    )
    return gate(candidate, baseline)


def printed(result: GateResult) -> str:
    stream = io.StringIO()
    print_gate(result, Console(file=stream, width=250))
    return stream.getvalue()


def test_the_table_has_every_row_its_verdict_and_its_reason(mixed: GateResult) -> None:
    text = printed(mixed)
    assert "+20." in text or "+19." in text
    assert "70.0 to 60.0 dB" in text
    assert "[bold]@team[/]" in text
    assert "gate: regression (1 worse picture, 1 slower, 2 missing, 1 new, 1 same)" in text


def test_json_has_verdicts_and_reason_codes(mixed: GateResult) -> None:
    data = json.loads(gate_json(mixed))
    assert (data["exit_code"], data["exit_name"]) == (1, "regression")
    rows = {row["key"]["stage"]: (row["verdict"], row["reason"]) for row in data["rows"]}
    assert rows["warp"] == ("slower", "slower")
    assert rows["motion"] == ("worse picture", "psnr_min_drop")
    assert data["counts"]["missing"] == 2
    assert data["rows"][0]["label"] == "appearance/tensorrt/fp16/native/batch 1"


def test_junit_is_xml_with_a_case_for_each_row(mixed: GateResult) -> None:
    suite = ElementTree.fromstring(gate_junit(mixed)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "2")
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["motion/tensorrt/fp16/native/batch 1", "warp/tensorrt/fp16/native/batch 1"]
    (error,) = [case.find("error") for case in suite if case.get("classname") == "gate.decode"]
    assert "died <b>&amp; " in error.get("message")


def test_junit_is_never_all_green_where_the_gate_does_not_pass() -> None:
    for candidate, baseline in ((run_of(), run_of()), (run_of(measured()), run_of())):
        suite = ElementTree.fromstring(gate_junit(gate(candidate, baseline))).find("testsuite")
        assert int(suite.get("errors")) > 0
    missing = ElementTree.fromstring(gate_junit(GateResult(ExitCode.ROWS_MISSING, ())))
    assert missing.find("testsuite/testcase/error") is not None
    passed = ElementTree.fromstring(gate_junit(gate(run_of(measured()), run_of(measured())))).find("testsuite")
    assert (passed.get("tests"), passed.get("failures"), passed.get("errors")) == ("1", "0", "0")


def test_markdown_shows_what_changed_and_folds_the_rest(mixed: GateResult) -> None:
    text = gate_markdown(mixed)
    assert text.startswith("### ❌ gate: regression")
    before, after = text.split("<details>")
    assert "warp/tensorrt" in before
    assert "generator/tensorrt" not in before
    assert "generator/tensorrt" in after
    assert "<b>" not in text
    assert "@team" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)
    assert gate_markdown(gate(run_of(measured()), run_of(measured()))).startswith("### ✅ gate: passed (1 same)")


def test_markdown_says_why_nothing_was_compared() -> None:
    text = gate_markdown(gate(run_of(measured()), run_of(measured(), complete=False)))
    assert "**cannot compare:** the baseline was interrupted" in text


def test_what_forbids_the_whole_comparison_is_told_once_and_names_no_whole_digest() -> None:
    rows = [measured(key(precision=name)) for name in ("fp32", "fp16")]
    foreign = replace(WEIGHTS, digest="ab" * 32)
    text = printed(gate(run_of(*rows, weights=foreign), run_of(*rows)))
    assert text.count("the weights changed: ") == 1
    assert f"{WEIGHTS.name} ({WEIGHTS.kind}, abababababab) in this run" in text
    assert "not comparable (2 not comparable)" in text


def test_markdown_fits_a_comment_however_many_rows_there_are() -> None:
    baseline = run_of(*(measured(key(f"stage{index}"), latency=None) for index in range(900)))
    absent = gate(run_of(measured(key("stage0"), latency=None)), baseline)
    text = gate_markdown(absent)
    assert len(text) <= MARKDOWN_LIMIT
    assert "rows missing (899 missing, 1 same)" in text
    assert "Shortened" in text
    same = gate_markdown(gate(baseline, baseline))
    assert len(same) <= MARKDOWN_LIMIT
    assert "passed (900 same)" in same
