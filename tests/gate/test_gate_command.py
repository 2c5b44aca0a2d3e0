"""`sadtrt gate` from end to end: exit codes, what it writes for people and machines, and that it fails closed."""

from __future__ import annotations

import dataclasses
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from record_examples import ENVIRONMENT, key, latency, measured, run_of
from typer.testing import CliRunner, Result

from sadtrt_core.cli import app
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.records.store import read_run, write_run

BASELINE = run_of(measured(), measured(key("decode")))
SLOWER = run_of(measured(), measured(key("decode"), latency=latency(6.0, 6.5, seed=3)))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(BASELINE, "results/baselines/h200/records.json")


def stored(run: Run, path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_run(run, Path(path))
    return path


def gate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["gate", *arguments])


def test_exit_codes_tell_the_verdicts_apart() -> None:
    h100 = dataclasses.replace(ENVIRONMENT, gpu="NVIDIA H100")
    expected = {
        0: run_of(measured(latency=latency(seed=5)), measured(key("decode"), latency=latency(seed=6))),
        1: SLOWER,
        2: dataclasses.replace(BASELINE, environment=h100),
        3: run_of(measured()),
    }
    for code, run in expected.items():
        for baseline in ("h200", "results/baselines/h200"):
            result = gate(stored(run, "run.json"), "--baseline", baseline)
            assert result.exit_code == code, result.output


def test_answers_for_machines_and_pull_requests() -> None:
    files = ("--json", "gate.json", "--junit", "gate.xml", "--markdown", "gate.md")
    assert gate(stored(SLOWER, "run.json"), "--baseline", "h200", *files).exit_code == 1
    answer = json.loads(Path("gate.json").read_text())
    assert {row["label"]: (row["verdict"], row["reason"]) for row in answer["rows"]} == {
        "decode/tensorrt/fp16/native/batch 1": ("slower", "slower"),
        "generator/tensorrt/fp16/native/batch 1": ("same", "within_limit"),
    }
    (suite,) = ElementTree.parse("gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert "❌" in Path("gate.md").read_text()


def test_a_baseline_is_written_on_purpose_only() -> None:
    run = stored(SLOWER, "run.json")
    assert gate(run, "--baseline", "new").exit_code == 2
    assert not Path("results/baselines/new").exists()
    assert gate(run, "--baseline", "h200").exit_code == 1
    assert read_run(Path("results/baselines/h200")) == BASELINE
    written = gate(run, "--baseline", "h200", "--update")
    assert written.exit_code == 0
    assert "wrote results/baselines/h200" in written.output
    assert read_run(Path("results/baselines/h200")) == SLOWER
    again = run_of(measured(latency=latency(seed=7)), measured(key("decode"), latency=latency(6.0, 6.5, seed=8)))
    assert gate(stored(again, "run.json"), "--baseline", "h200").exit_code == 0


def test_only_a_baseline_is_overwritten_and_what_was_made_of_it_goes() -> None:
    run = stored(SLOWER, "run.json")
    kept = Path("results/baselines/h200")
    (kept / "frames").mkdir()
    for derived in ("report.html", "frames/worst.png"):
        (kept / derived).write_text("of the old one")
    assert gate(run, "--baseline", "h200", "--update").exit_code == 0
    assert not (kept / "report.html").exists()
    assert not (kept / "frames").exists()
    Path("notes.json").write_text("{}")
    stored(BASELINE, "results/20260101T000000Z-gpu-a/records.json")
    Path("results/latest").symlink_to("20260101T000000Z-gpu-a")
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("mine")
    for target in ("./notes.json", "results/20260101T000000Z-gpu-a", "./thesis"):
        refused = gate(run, "--baseline", target, "--update")
        assert refused.exit_code == 2
        assert "is no baseline" in refused.output or "and no baseline" in refused.output
    assert read_run(Path("results/latest")) == BASELINE
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


def test_update_says_what_it_does_not_do() -> None:
    broken = Record(key("decode"), "failed", reason="RuntimeError: out of memory")
    run = stored(run_of(measured(), broken), "run.json")
    assert "1 of its 2 rows failed" in gate(run, "--baseline", "new", "--update").output
    refused = gate(run, "--baseline", "new", "--update", "--json", "gate.json")
    assert (refused.exit_code, "nothing for --json" in refused.output) == (2, True)
    refused = gate(run, "--baseline", "", "--update")
    assert (refused.exit_code, "--baseline is empty" in refused.output) == (2, True)
    assert sorted(path.name for path in Path("results/baselines").iterdir()) == ["h200", "new"]


def test_outputs_go_where_they_are_sent_and_never_over_the_inputs() -> None:
    run = stored(SLOWER, "run.json")
    Path("elsewhere").mkdir()
    Path("elsewhere/old.json").write_text("old")
    Path("gate.json").symlink_to("elsewhere/old.json")
    assert gate(run, "--baseline", "h200", "--json", "gate.json").exit_code == 1
    assert Path("gate.json").is_symlink()
    assert json.loads(Path("elsewhere/old.json").read_text())["exit_code"] == 1
    full = gate(run, "--baseline", "h200", "--json", "/dev/full")
    assert (full.exit_code, "cannot write /dev/full" in full.output) == (2, True)
    assert not Path("/dev/full").is_file()
    for own in (run, "results/baselines/h200/records.json"):
        before = Path(own).read_bytes()
        refused = gate(run, "--baseline", "results/baselines/h200", "--junit", own)
        assert (refused.exit_code, "is what the gate reads" in refused.output) == (2, True)
        assert Path(own).read_bytes() == before


def test_no_file_that_the_gate_knows_by_name_is_written_over() -> None:
    run = stored(SLOWER, "run.json")
    further = run_of(measured(latency=latency(5.1, seed=4)), started_utc="2025-02-01T12:00:00Z")
    assert gate(stored(further, "further.json"), "--baseline", "h200", "--add").exit_code == 0
    stored(BASELINE, "results/baselines/first/records.json")
    Path("pyproject.toml").write_text("[tool.sadtrt.gate]\n")
    (added,) = Path("results/baselines/h200/runs").iterdir()
    known = (
        "results/baselines/h200/records.json",
        "results/baselines/first/records.json",
        str(added),
        "pyproject.toml",
    )
    for own in known:
        before = Path(own).read_bytes()
        refused = gate(run, "--baseline", "h200", "--anchor", "first", "--json", own)
        assert (refused.exit_code, "is what the gate reads" in refused.output) == (2, True), own
        assert Path(own).read_bytes() == before
    refused = gate(run, "--baseline", "h200", "--json", "same", "--markdown", "./same")
    assert (refused.exit_code, "--markdown same is what" in refused.output) == (2, True)
    assert not Path("same").exists()


def test_a_baseline_is_not_made_of_itself() -> None:
    kept = Path("results/baselines/h200")
    (kept / "runs").mkdir()
    (kept / "runs" / "a.json").write_text("kept")
    refused = gate(str(kept), "--baseline", "h200", "--update")
    assert (refused.exit_code, "is the baseline" in refused.output) == (2, True)
    assert (kept / "runs" / "a.json").exists()


def test_a_name_in_brackets_is_shown_as_it_is() -> None:
    run = stored(SLOWER, "run.json")
    for name in ("[red]", "./x[/bold]"):
        written = gate(run, "--baseline", name, "--update")
        assert written.exit_code == 0, written.output
        assert f"{name.removeprefix('./')}\n" in written.output


def test_pipes_and_devices_are_no_runs() -> None:
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/zero"):
        judged = gate(path, "--baseline", "h200")
        assert (judged.exit_code, "it is no plain file" in judged.output) == (2, True)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (run_of(), "holds no records"),
        (dataclasses.replace(BASELINE, complete=False), "interrupted"),
    ],
)
def test_a_run_that_holds_nothing_whole_neither_passes_nor_becomes_a_baseline(run: Run, words: str) -> None:
    path = stored(run, "run.json")
    judged = gate(path, "--baseline", "h200", "--json", "gate.json")
    assert judged.exit_code == 2
    assert any(words in problem for problem in json.loads(Path("gate.json").read_text())["problems"])
    assert gate(path, "--baseline", "h200", "--update").exit_code == 2
    assert read_run(Path("results/baselines/h200")) == BASELINE


def test_files_that_are_missing_or_damaged_never_pass_and_are_named() -> None:
    run = stored(BASELINE, "run.json")
    Path("cut.json").write_bytes(Path(run).read_bytes()[:-50])
    for baseline, words in (("nowhere", "there are h200"), ("cut.json", "truncated perhaps")):
        result = gate(run, "--baseline", baseline, "--json", "gate.json", "--junit", "gate.xml")
        assert result.exit_code == 2
        assert words in json.loads(Path("gate.json").read_text())["problems"][0]
        (suite,) = ElementTree.parse("gate.xml").getroot()
        assert suite.get("errors") == "1"
    assert gate("nowhere", "--baseline", "h200").exit_code == 2


def test_thresholds_that_were_named_must_be_there() -> None:
    run = stored(BASELINE, "run.json")
    result = gate(run, "--baseline", "h200", "--thresholds", "limits.toml")
    assert result.exit_code == 2
    assert "cannot read limits.toml" in result.output
    Path("pyproject.toml").write_text("[tool.sadtrt.gate]\nslowdown_percent = 30\nhost_slowdown_percent = 30\n")
    assert gate(stored(SLOWER, "run.json"), "--baseline", "h200").exit_code == 0


def test_an_anchor_is_judged_beside_the_baseline_and_both_are_shown() -> None:
    stored(
        run_of(measured(), measured(key("decode"), latency=latency(5.9, 6.45, seed=9))), "results/baselines/now.json"
    )
    files = ("--json", "gate.json", "--markdown", "gate.md")
    again = stored(SLOWER, "run.json")
    assert gate(again, "--baseline", "now").exit_code == 0
    judged = gate(again, "--baseline", "now", "--anchor", "h200", *files)
    assert judged.exit_code == 1, judged.output
    assert "by the baseline: gate: passed" in " ".join(judged.output.split())
    rows = {row["label"]: row for row in json.loads(Path("gate.json").read_text())["rows"]}
    assert "against h200: device time" in rows["decode/tensorrt/fp16/native/batch 1"]["detail"]
    assert gate(again, "--baseline", "now", "--anchor", "nowhere").exit_code == 2


def test_runs_are_added_to_a_baseline_and_widen_its_limit() -> None:
    for seed, ms in enumerate((4.85, 4.95, 5.05, 5.15)):
        run = run_of(measured(latency=latency(ms, seed=seed)), started_utc=f"2025-02-0{seed + 1}T12:00:00Z")
        added = gate(stored(run, "run.json"), "--baseline", "h200", "--add")
        assert added.exit_code == 0, added.output
    new = stored(run_of(measured(latency=latency(5.25, seed=30)), measured(key("decode"))), "new.json")
    widened = gate(new, "--baseline", "h200", "--json", "gate.json")
    assert widened.exit_code == 0, widened.output
    (row,) = (row for row in json.loads(Path("gate.json").read_text())["rows"] if "generator" in row["label"])
    (found,) = (one for one in row["findings"] if one["metric"] == "device_ms")
    assert "against 5 runs" in found["sentence"]
    assert found["limit"] > 5
    assert gate("run.json", "--baseline", "h200", "--add").exit_code == 2, "the same run says nothing new"
    assert gate("run.json", "--baseline", "nowhere", "--add").exit_code == 2
    newer = run_of(measured(latency=latency(6.0)), environment=dataclasses.replace(ENVIRONMENT, commit="0123456789ab"))
    refused = gate(stored(newer, "newer.json"), "--baseline", "h200", "--add")
    assert refused.exit_code == 2
    assert "is of commit abcdef1234567, the run of 0123456789ab: add runs of the same code" in refused.output.replace(
        "\n", " "
    )
    changed = run_of(measured(latency=latency(6.0)), environment=dataclasses.replace(ENVIRONMENT, dirty=True))
    refused = gate(stored(changed, "changed.json"), "--baseline", "h200", "--add")
    assert (refused.exit_code, "changes that are not committed" in " ".join(refused.output.split())) == (2, True)
    stored(dataclasses.replace(changed, started_utc="2025-02-09T12:00:00Z"), "results/baselines/mine/records.json")
    refused = gate("run.json", "--baseline", "mine", "--add")
    words = " ".join(refused.output.split())
    assert (refused.exit_code, "the baseline results/baselines/mine is of a checkout with changes" in words) == (
        2,
        True,
    )
    at_once = run_of(measured(latency=latency(6.0)), started_utc="2025-02-01T12:00:00Z")
    assert gate(stored(at_once, "at-once.json"), "--baseline", "h200", "--add").exit_code == 0
    assert len(list(Path("results/baselines/h200/runs").iterdir())) == 5, "another run began in that second"
    assert gate("run.json", "--baseline", "h200", "--add", "--anchor", "h200").exit_code == 2
    assert gate("run.json", "--baseline", "h200", "--update").exit_code == 0
    assert not Path("results/baselines/h200/runs").exists(), "another baseline has other runs"
