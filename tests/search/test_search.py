"""Searching plans on a CPU: budgets reached or refused, killed searches resumed, plans that hold what they claim."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sadtrt_core.localise.parts import block_parts
from sadtrt_core.localise.report import Loss
from sadtrt_core.plan import precision_named, read_plan
from sadtrt_core.precision import COORDINATES, PRECISIONS
from sadtrt_core.records.measurements import Drift
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.search.command import search_command
from sadtrt_core.search.confirm import Confirmed, confirm, fastest
from sadtrt_core.search.run import search_suite
from sadtrt_core.search.trials import Budget
from sadtrt_core.suite import Suite, SuiteOptions

pytestmark = pytest.mark.usefixtures("_one_thread")
FP16 = PRECISIONS["fp16"]
# Everything in half holds 45 dB here, coordinates in fp32 53 dB, fp32 throughout 115 dB.
REACHABLE = Budget(54.0)
EASY = Budget(50.0)


def make_suite(renderer, cache: Path, like: Suite | None = None) -> Suite:
    """A suite of three frames that keeps its graphs and journals in `cache`; the reference of another where given."""
    options = SuiteOptions(
        size=256,
        weights="seeded",
        checkpoint=None,
        mapping_checkpoint=None,
        source_image=None,
        samples=None,
        frames=3,
        clip_frames=None,
        device="cpu",
        grid_sample="native",
        cache=cache,
        results=cache / "results",
        jobs=1,
    )
    small = Suite(options)
    small.__dict__["renderer"] = renderer  # A cached property: the tiny networks in place of the demo's.
    if like is not None:
        small.__dict__["reference"] = like.reference
    return small


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def small(tiny, cache):
    return make_suite(tiny, cache)


@pytest.fixture(scope="module")
def found(small):
    return search_suite(small, FP16, REACHABLE, "reached", worst=1)


def test_a_budget_is_reached_with_little_in_fp32(found, small):
    outcome = found.outcome
    assert outcome.met
    assert found.refusal is None
    assert not REACHABLE.met_by(Loss.of(outcome.low))
    assert outcome.drift.psnr_min >= 54
    assert 0 < outcome.cost < 0.5
    assert COORDINATES in [item.part.name for item in outcome.kept]
    # Nothing is kept for nothing: without any one part the budget breaks.
    for item in outcome.kept:
        assert not REACHABLE.met_by(item.without)


def test_a_plan_file_holds_what_it_claims_when_it_is_used(found, small, tmp_path):
    assert search(small, tmp_path, out=tmp_path / "reached.toml") == (True, "")
    plan = read_plan(tmp_path / "reached.toml")
    assert plan.precision == found.plan.precision
    job = replace(
        small.job("generator", runner_named("onnxruntime"), "fp32", 1),
        precision=precision_named(str(tmp_path / "reached.toml")),
    )
    with runner_named("onnxruntime").create(job) as runner:
        drift = small.drift(small.render_sequence(runner, small.frame_inputs))
    assert drift.psnr_min == pytest.approx(plan.measured["psnr_min_db"], abs=1e-6)
    assert drift.max_lsb_worst == plan.measured["max_lsb"]
    assert drift.ssim_min == pytest.approx(plan.measured["ssim_min"], abs=1e-9)
    assert plan.measured["meaningful"] is False
    assert plan.versions["graph"]
    assert "of 255" in plan.keep[0].why


def search(small, folder, min_psnr=54.0, max_lsb=None, out=None, precision="fp16"):
    """`search_command` as the command line calls it, and what it said."""
    said = Console(file=(folder / "said.txt").open("w+"), width=200)
    asked = _Asked(small)
    wrote = search_command(asked, precision, min_psnr, max_lsb, 3, 1, out, said, Console(quiet=True))
    said.file.seek(0)
    return wrote, "" if wrote else said.file.read()


class _Asked:
    """Options whose suite is the one at hand: the command makes its own from them."""

    def __init__(self, small):
        self.options = small.options


@pytest.fixture(autouse=True)
def _same_suite(monkeypatch, small):
    monkeypatch.setattr("sadtrt_core.search.command.Suite", lambda options, say: small)


def test_a_budget_that_the_base_holds_keeps_nothing(small):
    easy = search_suite(small, FP16, Budget(40.0, 255), "easy", worst=1)
    assert easy.plan is not None
    assert easy.plan.keep == ()
    assert easy.outcome.cost == 0


def test_a_killed_search_goes_on_where_it_was(tiny, small, found, tmp_path):
    uninterrupted = search_suite(small, FP16, EASY, "easy", worst=1)
    killed = make_suite(tiny, tmp_path, small)

    def kill(count):
        if count == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_suite(killed, FP16, EASY, "easy", worst=1, tell=kill)
    said = []
    resumed = search_suite(killed, FP16, EASY, "easy", worst=1, say=said.append)
    assert "going on from 12 candidates" in said[0]
    assert resumed.plan.precision == uninterrupted.plan.precision
    assert resumed.outcome == uninterrupted.outcome
    # None of the twelve was rendered again: only the plan itself is rendered twice, on the worst frame and on the rest.
    (journal,) = (tmp_path / "search").iterdir()
    candidates = len(json.loads(journal.read_text())["measured"])
    assert candidates <= 12 + resumed.trials <= candidates + 2
    assert search_suite(killed, FP16, EASY, "easy", worst=1).trials == 0


def test_a_damaged_journal_starts_anew_and_other_work_has_its_own(tiny, small, tmp_path):
    held = Budget(40.0)
    mine = make_suite(tiny, tmp_path, small)
    first = search_suite(mine, FP16, held, "held", worst=1)
    (journal,) = (tmp_path / "search").iterdir()
    journal.write_text(journal.read_text()[:-40])
    said = []
    second = search_suite(mine, FP16, held, "held", worst=1, say=said.append)
    assert second.trials == first.trials > 0
    assert said[0].startswith(f"starting the search anew: the journal {journal} cannot be read")
    shorter = make_suite(tiny, tmp_path, small)
    shorter.options = replace(shorter.options, frames=2)
    assert search_suite(shorter, FP16, held, "held", worst=1).trials == first.trials
    assert len(list((tmp_path / "search").iterdir())) == 2


@pytest.mark.parametrize(("precision", "words"), [("tf32", "no base to search from"), ("fp16-mixed", "no base")])
def test_a_base_that_is_not_low_throughout_is_refused(small, tmp_path, precision, words):
    with pytest.raises(ValueError, match=words):
        search(small, tmp_path, precision=precision, out=tmp_path / "x.toml")


def test_a_name_no_plan_can_have_is_refused_before_anything_is_measured(tmp_path):
    for name, words in (("plan.txt", r"ends in \.toml"), ("fp16.toml", "built-in precision")):
        with pytest.raises(ValueError, match=words):
            search_command(None, "fp16", 60.0, None, 3, 1, tmp_path / name, Console(quiet=True), Console(quiet=True))


def test_blocks_cover_every_node_that_computes(small, found):
    from sadtrt_core.localise.run import candidates_of
    from sadtrt_core.localise.shapes import NO_ARITHMETIC

    graph = candidates_of(small).graph
    parts = block_parts(graph)
    covered = [node for part in parts for node in part.nodes]
    assert len(covered) == len(set(covered))
    computing = {node.name for node in graph.graph.node if node.op_type not in NO_ARITHMETIC}
    assert computing <= set(covered)


def test_the_fastest_engine_within_the_budget_is_taken():
    def made(name, db, ms):
        return Confirmed(replace(FP16, name=name), Drift((db,), (0.9,), (1,), (False,)), ms)

    rows = {item.precision.name: item for item in (made("a", 62, 3.0), made("b", 61, 2.0), made("c", 50, 1.0))}
    measured = []

    def measure(precision):
        measured.append(precision.name)
        return rows[precision.name]

    finalists = [item.precision for item in rows.values()]
    assert fastest(finalists, measure, Budget(60.0)) == (rows["b"], True)
    assert measured == ["a", "b", "c"]
    assert fastest(finalists, measure, Budget(90.0)) == (rows["a"], False)


def test_confirming_renders_and_times_in_the_runner(small, found):
    done = confirm(small, runner_named("onnxruntime"), found.plan.precision)
    assert done.drift.psnr_min == pytest.approx(found.outcome.drift.psnr_min, abs=1e-6)
    assert done.latency_ms > 0
    with pytest.raises(ValueError, match="tensorrt cannot confirm the plan: TensorRT runs on an NVIDIA GPU"):
        confirm(small, runner_named("tensorrt"), found.plan.precision)
