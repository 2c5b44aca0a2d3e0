"""Interleaved comparison: the order of turns, drift that hits both sides alike, other checkouts, and refusals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.compare import Conditions, Side, Turn, compare_in_turn, compare_sides
from sadtrt_core.measure.stats import interleaved_ratio

ROOT = Path(__file__).parents[1]
MAPPING = ["--stage", "mapping", "--weights", "seeded", "--device", "cpu", "--seconds", "0.2"]


class Scripted:
    """A contestant whose samples take `level` ms, times how slow the machine is by now."""

    call_seconds = 0.01

    def __init__(self, name, level, log, slowness, on_device=False):
        self.name, self.level, self.log, self.slowness, self.on_device = name, level, log, slowness, on_device

    def take(self, count):
        self.log.append(self.name)
        times = tuple(self.level * next(self.slowness) for _ in range(count))
        return Turn(times, times if self.on_device else None)


def compared(a_level, b_level, slowness=None, **options):
    log: list[str] = []
    slowness = slowness or itertools.repeat(1.0)
    outcome = compare_in_turn(
        Scripted("A", a_level, log, slowness, **options), Scripted("B", b_level, log, slowness, **options), 1.0
    )
    return outcome, "".join(log)


def test_sides_take_turns_a_b_b_a():
    outcome, log = compared(10.0, 10.0)
    assert log == "ABBA" * outcome.rounds
    assert outcome.rounds >= 8


def test_a_machine_that_slows_down_all_along_shows_no_difference_and_hides_none():
    """Times double in the course of the measurement: A first, then B, would call B 1.5 times slower."""
    slowing = (1.0 + i / 1000 for i in itertools.count())
    outcome, _ = compared(10.0, 10.0, slowing)
    assert outcome.ratio == pytest.approx(1.0, abs=0.01)
    assert outcome.interval.low <= 1.0 <= outcome.interval.high
    slowing = (1.0 + i / 1000 for i in itertools.count())
    outcome, _ = compared(10.0, 10.5, slowing)
    assert outcome.interval.low > 1.03
    assert outcome.interval.high < 1.07


def test_the_device_clock_is_used_where_both_have_it():
    assert compared(10.0, 20.0, on_device=True)[0].clock == "device"
    assert compared(10.0, 20.0)[0].clock == "host"


def test_the_sentence_says_what_may_be_concluded():
    faster = compared(10.0, 5.0)[0].sentence("a", "b")
    assert faster == "b is 2 times as fast as a (95%: 2 to 2)"
    assert compared(5.0, 10.0)[0].sentence("a", "b").startswith("b takes 2 times as long as a")
    assert compared(5.0, 5.0)[0].sentence("a", "b").startswith("no difference shown: b takes 1 to 1 times as long")


def test_rounds_must_match():
    with pytest.raises(ValueError, match="rounds should match"):
        interleaved_ratio([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="rounds should match"):
        interleaved_ratio([], [])


def test_sides_are_parsed_with_their_defaults():
    assert Side.parse("pytorch") == Side("pytorch", "fp32")
    assert Side.parse("onnxruntime:fp16-mixed:native") == Side("onnxruntime", "fp16-mixed", "native")
    assert Side.parse("pytorch").label() == "pytorch:fp32"


@pytest.mark.parametrize(
    ("a", "words"),
    [
        ("pytorch:", "should be runner[:precision[:grid_sample]]"),
        ("pytorch:fp32:native:more", "should be runner[:precision[:grid_sample]]"),
        ("caffe", "runner 'caffe' is not known: expected one of pytorch"),
        ("pytorch:fp8", "precision 'fp8' is not known"),
        ("pytorch:fp32:cubic", "grid sample 'cubic' is not known"),
        ("pytorch:tf32", "pytorch:tf32 cannot run mapping here: TF32 is arithmetic of NVIDIA GPUs"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(a, words):
    result = CliRunner().invoke(app, ["compare", a, "pytorch:fp32", *MAPPING])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")


def test_two_precisions_are_compared_in_one_process(tmp_path):
    file = tmp_path / "outcome.json"
    result = CliRunner().invoke(app, ["compare", "pytorch:fp32", "pytorch:bf16", *MAPPING, "--json", str(file)])
    assert result.exit_code == 0, result.output
    (outcome,) = json.loads(file.read_text())
    assert (outcome["a"], outcome["b"], outcome["clock"]) == ("pytorch:fp32", "pytorch:bf16", "host")
    assert outcome["interval"]["low"] <= outcome["ratio"] <= outcome["interval"]["high"]
    assert outcome["a_ms"] > 0 < outcome["b_ms"]


CONDITIONS = Conditions("mapping", 1, 256, "seeded", None, "cpu", "cache")


def test_another_checkout_takes_its_turns_in_a_process_of_its_own(tmp_path):
    """A checkout whose mapping stage sleeps 20 ms more."""
    checkout = tmp_path / "other"
    checkout.mkdir()
    for path in ROOT.iterdir():
        if path.name != "sadtrt_core" and not path.name.startswith("."):
            (checkout / path.name).symlink_to(path)
    package = checkout / "sadtrt_core"
    package.mkdir()
    for path in (ROOT / "sadtrt_core").iterdir():
        if path.name not in ("runners", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "runners").mkdir()
    for path in (ROOT / "sadtrt_core" / "runners").glob("*.py"):
        (package / "runners" / path.name).write_text(path.read_text())
    slower = package / "runners" / "pytorch.py"
    marker = "    def execute(self) -> None:\n"
    assert slower.read_text().count(marker) == 1
    slower.write_text(slower.read_text().replace(marker, marker + '        __import__("time").sleep(0.02)\n'))
    side = Side("pytorch", "fp32")
    outcome = compare_sides(side, side, CONDITIONS, checkout, 0.2, print)
    assert outcome.b_ms - outcome.a_ms > 15
    assert outcome.interval.low > 1


def test_a_checkout_that_cannot_take_part_is_named(tmp_path):
    side = Side("pytorch", "fp32")
    with pytest.raises(ValueError, match="is no checkout of this project"):
        compare_sides(side, side, CONDITIONS, tmp_path, 0.2, print)
    (tmp_path / "sadtrt_core").mkdir()
    (tmp_path / "sadtrt_core" / "__init__.py").touch()
    with pytest.raises(ValueError, match=r"ended with exit status 1 .* older than `sadtrt compare`"):
        compare_sides(side, side, CONDITIONS, tmp_path, 0.2, print)
