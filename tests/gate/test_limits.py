from __future__ import annotations

from pathlib import Path

import pytest
from record_examples import key

from sadtrt_core.errors import UserError
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.report.metrics import default_limits

PYPROJECT = """
[tool.sadtrt.gate]
slowdown_percent = 4
energy_growth_percent = false
false_alarm = 0.005
[[tool.sadtrt.gate.override]]
stage = "decode"
slowdown_percent = 6
[[tool.sadtrt.gate.override]]
stage = "decode"
precision = "fp16"
slowdown_percent = 8.5
psnr_min_drop_db = false
"""


def read(tmp_path: Path, text: str, name: str = "pyproject.toml") -> Thresholds:
    (tmp_path / name).write_text(text)
    return Thresholds.read(tmp_path / name)


def test_overrides_hold_where_all_their_selectors_do(tmp_path: Path) -> None:
    thresholds = read(tmp_path, PYPROJECT)
    assert thresholds.false_alarm == 0.005
    assert thresholds.for_key(key("warp"))["slowdown_percent"] == 4
    assert thresholds.for_key(key("warp"))["energy_growth_percent"] is None
    assert thresholds.for_key(key("warp"))["psnr_min_drop_db"] == default_limits()["psnr_min_drop_db"]
    assert thresholds.for_key(key("decode", "fp32"))["slowdown_percent"] == 6
    assert thresholds.for_key(key("decode"))["slowdown_percent"] == 8.5
    assert thresholds.for_key(key("decode"))["psnr_min_drop_db"] is None


def test_an_override_may_be_for_short_rows_only_and_the_default_one_gives_way_to_a_later(tmp_path: Path) -> None:
    eager = key("warp", "fp32", "pytorch")
    for ms in (0.47, 14.4):
        limits = Thresholds().for_key(eager, ms)
        assert (limits["slowdown_percent"], limits["host_slowdown_percent"]) == (3.5, 25)
        assert limits["host_p99_slowdown_percent"] is limits["host_slow_samples_points"] is None
        assert (limits["p99_slowdown_percent"], limits["slow_samples_points"]) == (20, 0.5)
    for slow in (Thresholds().for_key(eager, 45.0), Thresholds().for_key(eager, None), Thresholds().for_key(eager)):
        assert slow == default_limits() | {"memory_growth_percent": 30.0}, "another device time, or none"
    assert Thresholds().for_key(key("warp"), 0.05) == default_limits() | {
        "slowdown_percent": 5.0,
        "host_slowdown_percent": 25.0,
        "host_p99_slowdown_percent": None,
        "host_slow_samples_points": None,
    }
    assert Thresholds().for_key(key("warp"), 0.5) == default_limits()
    text = "[[gate.override]]\nrunner = 'pytorch'\nbelow_ms = 0.5\nhost_slowdown_percent = 7"
    own = read(tmp_path, text, "gate.toml")
    assert [own.for_key(eager, ms)["host_slowdown_percent"] for ms in (0.47, 0.6, 45.0)] == [7, 25, 10]
    project = Thresholds.read(Path(__file__).parents[2] / "pyproject.toml")
    fp16 = key("generator", "fp16", "pytorch")
    assert project.for_key(fp16, 12.0) == Thresholds().for_key(fp16, 12.0)
    assert project.for_key(key("mapping", "fp32"), 0.02)["slowdown_percent"] == 5


def test_default_overrides_never_tighten_a_limit_nor_judge_what_is_not_judged(tmp_path: Path) -> None:
    text = "[gate]\nslowdown_percent = {}\nhost_slowdown_percent = {}"
    eager, short = key("generator", "fp16", "pytorch"), key("warp")
    off = read(tmp_path, text.format("false", "false"), "gate.toml")
    for limits in (off.for_key(eager, 9.5), off.for_key(short, 0.05)):
        assert limits["slowdown_percent"] is limits["host_slowdown_percent"] is None
    wide = read(tmp_path, text.format("8", "50"), "gate.toml")
    assert wide.for_key(eager, 9.5)["host_slowdown_percent"] == 50
    assert wide.for_key(short, 0.05)["slowdown_percent"] == 8
    narrow = read(tmp_path, text.format("1", "5"), "gate.toml")
    assert (narrow.for_key(short, 0.05)["slowdown_percent"], narrow.for_key(short, 0.5)["slowdown_percent"]) == (5, 1)
    own = read(tmp_path, "[[gate.override]]\nbelow_ms = 0.2\nslowdown_percent = 2", "gate.toml")
    assert (own.for_key(short, 0.05)["slowdown_percent"], own.for_key(short, 0.5)["slowdown_percent"]) == (2, 3.5)


def test_a_project_without_the_table_has_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "[project]\nname = 'x'\n") == Thresholds()
    assert read(tmp_path, "[gate]\nslowdown_percent = 1.5\n", "gate.toml").limits["slowdown_percent"] == 1.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gate]\nslow_percent = 1", "unknown entry 'slow_percent'; it knows .*slowdown_percent"),
        ("[gate]\nslowdown_percent = true", "gate.slowdown_percent should be a number of at least 0, or false"),
        ("[gate]\nslowdown_percent = -1", "of at least 0"),
        ("[gate]\nslowdown_percent = nan", "of at least 0"),
        ("[gate]\nslowdown_percent = '3'", "of at least 0"),
        ("[gate]\nfalse_alarm = 0", "between 0 and 0.5"),
        ("[gate]\noverride = 3", "list of tables"),
        ("[[gate.override]]\nslowdown_percent = 3", "for which stage, runner or precision"),
        ("[[gate.override]]\nstage = 3", "should be a name in quotes"),
        ("[[gate.override]]\nstage = 'decode'\nbatch = 3", "unknown entry 'batch'"),
        ("[[gate.override]]\nslowdown_percent = 1.0", "for which stage, runner or precision it is, or below_ms"),
        ("[[gate.override]]\nstage = 'warp'\nbelow_ms = 'short'", "below_ms should be a number"),
        ("[[gate.override]]\nstage = 'genrator'", "stage 'genrator' is not known: expected one of keypoints"),
        ("[[gate.override]]\nrunner = 'tensort'", "runner 'tensort' is not known: expected one of pytorch"),
        ("[gate]\n[gat]\nslowdown_percent = 3", "unknown table 'gat' where gate is expected"),
        ("gate = 3", "should be a table"),
        ("[other]\n", r"should hold a table \[gate\]"),
        ("[gate", "not a TOML file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, text, "gate.toml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        Thresholds.read(tmp_path / "nowhere.toml")
    (tmp_path / "pyproject.toml").write_text("[tool.sadtrt.gat]\nslowdown_percent = 3")
    with pytest.raises(UserError, match=r"unknown table .gat. where tool\.sadtrt\.gate is expected"):
        Thresholds.read(tmp_path / "pyproject.toml")
    (tmp_path / "pyproject.toml").write_text("tool = 3")
    with pytest.raises(UserError, match="should be a table"):
        Thresholds.read(tmp_path / "pyproject.toml")
