"""Searching plans on a CPU: budgets reached or refused, killed searches resumed, plans that hold what they claim."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from sadtrt_core.accuracy.confirm import Confirmed, confirm, confirm_all, fastest, how_well_known, verdict
from sadtrt_core.accuracy.findings import Budget
from sadtrt_core.accuracy.greedy import Trials
from sadtrt_core.accuracy.parts import NO_ARITHMETIC, block_parts
from sadtrt_core.accuracy.search import search_command, search_session
from sadtrt_core.accuracy.simulate import simulator_of
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import Unavailable, UserError
from sadtrt_core.graph.typed import kept_nodes
from sadtrt_core.measure.drift import Reference, measure_drift
from sadtrt_core.measure.timing import TimingPlan
from sadtrt_core.plan import precision_named, read_plan
from sadtrt_core.precision import COORDINATES, PRECISIONS
from sadtrt_core.records.measurements import Drift, Latency
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.session import Session

pytestmark = pytest.mark.usefixtures("_one_thread")
FP16 = PRECISIONS["fp16"]
# Everything in half holds 45 dB here, coordinates in fp32 53 dB, fp32 throughout 115 dB.
REACHABLE = Budget(54.0)
EASY = Budget(50.0)


def make_session(renderer, cache: Path, like: Session | None = None) -> Session:
    """A session of one frame that keeps its graphs and journals in `cache`; the reference of another where given."""
    options = RunConfig(
        weights="seeded",
        precisions=("fp16",),
        frames=1,
        device="cpu",
        grid_sample="native",
        cache=cache,
        results=cache / "results",
    )
    small = Session(options)
    small.__dict__["renderer"] = renderer  # A cached property: the tiny networks in place of the demo's.
    if like is not None:
        small.__dict__["reference"] = like.reference
    return small


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def small(tiny, cache):
    return make_session(tiny, cache)


class KnownErrors:
    """A simulator without arithmetic: every node in a low type adds a squared error of its own, coordinates the most.

    The reference is what fp32 gives, so that the search itself is tested in seconds.
    """

    def __init__(self, session):
        real = simulator_of(session)
        self.graph, self.shapes, self.inputs = real.graph, real.shapes, real.inputs
        self.reference = session.reference.frames
        self.pattern = torch.randn(self.reference.shape, generator=torch.Generator().manual_seed(0))
        coordinates = kept_nodes(self.graph, replace(FP16, keep_coordinates=True))
        self.squares = {
            node.name: (1e-6 if node.name in coordinates else 1e-8) * (1 + index % 7)
            for index, node in enumerate(self.graph.graph.node)
            if node.op_type not in NO_ARITHMETIC or node.name in coordinates
        }

    def frames(self, precision, indices):
        kept = kept_nodes(self.graph, precision)
        error = sum(square for name, square in self.squares.items() if name not in kept) ** 0.5
        return self.reference[list(indices)] + error * self.pattern[list(indices)]


@pytest.fixture(scope="module")
def known(small):
    return KnownErrors(small)


@pytest.fixture(scope="module")
def found(small):
    return search_session(small, FP16, REACHABLE, "reached", worst=1)


def test_a_budget_is_reached_with_little_in_fp32(found, small):
    outcome = found.outcome
    assert outcome.met
    assert found.plan is not None
    assert not REACHABLE.met_by(outcome.low)
    assert outcome.drift.psnr_min >= 54
    assert 0 < outcome.cost < 0.5
    assert COORDINATES in [part.name for part in outcome.kept]
    # Nothing is kept for nothing: without any one part the budget breaks.
    for without in outcome.kept.values():
        assert not REACHABLE.met_by(without)


def test_what_is_quantised_is_never_taken_for_what_is_not(small, tmp_path):
    """int8 differs from fp16-mixed in its quantisation alone."""
    measured = []

    class Given:
        inputs = (None,)

        def frames(self, precision, indices):
            measured.append(precision.name)
            return torch.zeros(len(indices), 3, 16, 16)

    trials = Trials(Given(), torch.zeros(1, 3, 16, 16), "float16", tmp_path / "journal.json")
    for name in ("fp16-mixed", "int8", "fp8", "int8"):
        trials.of(PRECISIONS[name], [0])
    assert measured == ["fp16-mixed", "int8", "fp8"]


def test_a_plan_file_holds_what_it_claims_when_it_is_used(found, small, tmp_path):
    quiet = Console(quiet=True)
    assert search_command(small, REACHABLE, 1, tmp_path / "reached.toml", quiet, quiet)
    plan = read_plan(tmp_path / "reached.toml")
    assert plan.precision == found.plan.precision
    job = replace(
        small.job(small.case("generator", "onnxruntime", "fp32")),
        precision=precision_named(str(tmp_path / "reached.toml")),
    )
    with runner_named("onnxruntime").create(job) as runner:
        drift = small.drift(runner.frames(small.frame_inputs()))
    assert drift.psnr_min == pytest.approx(plan.measured["psnr_min_db"], abs=1e-6)
    assert drift.max_lsb_worst == plan.measured["max_lsb"]
    assert drift.ssim_min == pytest.approx(plan.measured["ssim_min"], abs=1e-9)
    assert plan.measured["meaningful"] is False
    assert plan.versions["graph"]
    assert "of 255" in plan.keep[0].why


class Said:
    """What a reporter is told; it interrupts when so many precisions were tried."""

    def __init__(self, interrupt_at=None):
        self.lines, self.interrupt_at = [], interrupt_at

    def log(self, line):
        self.lines.append(line)

    def progress(self, task, done, total):
        if done == self.interrupt_at:
            raise KeyboardInterrupt


def test_a_budget_that_the_base_holds_keeps_nothing(small):
    easy = search_session(small, FP16, Budget(40.0, 255), "easy", worst=1)
    assert easy.plan is not None
    assert easy.plan.keep == ()
    assert easy.outcome.cost == 0


def test_a_killed_search_goes_on_where_it_was(tiny, small, known, tmp_path):
    other = make_session(tiny, tmp_path / "other", small)
    uninterrupted = search_session(other, FP16, EASY, "easy", worst=1, simulator=known)
    killed = make_session(tiny, tmp_path, small)
    with pytest.raises(KeyboardInterrupt):
        search_session(killed, FP16, EASY, "easy", worst=1, simulator=known, reporter=Said(interrupt_at=12))
    said = Said()
    resumed = search_session(killed, FP16, EASY, "easy", worst=1, simulator=known, reporter=said)
    assert "going on from 12 candidates" in said.lines[0]
    assert resumed.plan.precision == uninterrupted.plan.precision
    assert resumed.outcome == uninterrupted.outcome
    # None of the twelve was rendered again.
    (journal,) = (tmp_path / "search").iterdir()
    candidates = len(json.loads(journal.read_text())["measured"])
    assert candidates == 12 + resumed.trials
    assert search_session(killed, FP16, EASY, "easy", worst=1, simulator=known).trials == 0


@pytest.mark.parametrize(("own_db", "repeatable"), [(75.0, True), (55.0, True), (120.0, False)])
def test_a_weak_reference_judges_budgets_well_below_it_and_no_others(tiny, small, known, tmp_path, own_db, repeatable):
    session = make_session(tiny, tmp_path, like=small)
    weak = Reference(small.reference.frames, repeatable, Drift((own_db,), (1.0,), (0,), (False,)), "a frame")
    session.__dict__["reference"] = weak
    if own_db == 75.0:
        said = Said()
        found = search_session(session, FP16, EASY, "easy", worst=1, simulator=known, reporter=said)
        assert found.plan is not None
        warning = "judged by a weak reference, good up to 65.0 dB: repeatable, 75.0 dB against float64 in a frame"
        assert warning in said.lines[0]
        assert warning in str(found.plan.measured["reference"])
    else:
        judged = "anything" if not repeatable else "50.0 dB, only up to 45.0"
        with pytest.raises(UserError, match=f"the reference cannot judge {judged}"):
            search_session(session, FP16, EASY, "easy", worst=1, simulator=known)


def test_a_damaged_journal_starts_anew_and_other_work_has_its_own(tiny, small, known, tmp_path):
    held = Budget(40.0)
    mine = make_session(tiny, tmp_path, small)
    first = search_session(mine, FP16, held, "held", worst=1, simulator=known)
    (journal,) = (tmp_path / "search").iterdir()
    journal.write_text(journal.read_text()[:-40])
    said = Said()
    second = search_session(mine, FP16, held, "held", worst=1, simulator=known, reporter=said)
    assert second.trials == first.trials > 0
    assert said.lines[0].startswith(f"starting the search anew: the journal {journal} cannot be read")
    # A figure that was changed by hand is no better than half a file: the plan would claim it.
    journal.write_text(re.sub(r"\[(\d)", r"[9\1", journal.read_text(), count=1))
    third = search_session(mine, FP16, held, "held", worst=1, simulator=known, reporter=said)
    assert third.outcome == first.outcome
    assert "its figures were changed after they were written" in said.lines[-1]
    journal.unlink()
    os.mkfifo(journal)
    assert search_session(mine, FP16, held, "held", worst=1, simulator=known, reporter=said).trials == first.trials
    assert "it is no plain file" in said.lines[-1]
    longer = make_session(tiny, tmp_path, small)
    longer.options = replace(longer.options, frames=2)
    assert search_session(longer, FP16, held, "held", worst=1, simulator=known).trials == first.trials
    assert len(list((tmp_path / "search").iterdir())) == 2


@pytest.mark.parametrize(("precision", "words"), [("tf32", "no base to search from"), ("fp16-mixed", "no base")])
def test_a_base_that_is_not_low_throughout_is_refused(small, precision, words):
    with pytest.raises(UserError, match=words):
        search_session(small, PRECISIONS[precision], EASY, "x")


def test_a_name_no_plan_can_have_is_refused_before_anything_is_measured(tmp_path):
    quiet, nothing = Console(quiet=True), Session(RunConfig(precisions=("fp16",), device="cpu", cache=tmp_path))
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    refused = (
        ("plan.txt", r"ends in \.toml"),
        ("fp16.toml", "built-in precision"),
        ("pyproject.toml", "is there already and is no plan"),
    )
    for name, words in refused:
        with pytest.raises(UserError, match=words):
            search_command(nothing, EASY, 1, tmp_path / name, quiet, quiet)


def test_blocks_cover_every_node_that_computes(small, found):
    graph = simulator_of(small).graph
    parts = block_parts(graph)
    covered = [node for part in parts for node in part.nodes]
    assert len(covered) == len(set(covered))
    computing = {node.name for node in graph.graph.node if node.op_type not in NO_ARITHMETIC}
    assert computing <= set(covered)


def made(name, db, ms, lsb=1):
    return Confirmed(replace(FP16, name=name), Drift((db,), (0.9,), (lsb,), (False,)), ms)


def test_the_fastest_engine_within_the_budget_is_taken():
    slow, quick, bad = made("a", 62, 3.0), made("b", 61, 2.0), made("c", 50, 1.0)
    assert fastest([slow, quick, bad], Budget(60.0)) == quick
    assert fastest([slow, quick, bad], Budget(90.0)) == slow


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (
            made("p", 72, 4.0),
            "new (4.000 ms, 72.0 dB, max LSB 1) is 20.0% faster than the built-in fp16-mixed (5.000 ms",
        ),
        (made("p", 72, 4.0), "should give way"),
        (made("p", 70.5, 4.0), "stays"),
        (made("p", 75, 4.0, lsb=3), "stays"),
        (made("p", 75, 4.97), "is as fast as the built-in"),
        (made("p", 75, 4.97), "stays"),
        (made("p", 75, 6.0), "is 20.0% slower than"),
        (replace(made("p", 72, 4.0), half_width=0.3), "as fast as"),
    ],
)
def test_the_built_in_gives_way_only_to_what_is_faster_and_no_worse(plan, words):
    assert words in verdict("new", plan, made("fp16-mixed", 71, 5.0, lsb=2))


def test_engines_no_further_apart_than_their_repetitions_are_called_as_fast_however_many_samples_there_are():
    """Repetitions differ by some percent, so that 1000 samples, each median known to 0.2%, know no more than eight."""

    def engine(name, ms):
        levels = 1 + 0.01 * np.array([0, 2, -0.5, 1, -2, 0.5, -1, 0])
        times = ms * levels[:, None] * np.exp(np.random.default_rng(len(name)).normal(0, 0.002, (8, 125)))
        latency = Latency(tuple(times.ravel()), (5.0,) * 1000, 10, True, visits=tuple(range(0, 1000, 125)))
        drift = Drift((72.0,), (0.9,), (1,), (False,))
        return Confirmed(replace(FP16, name=name), drift, latency.device_ms_median, how_well_known(latency))

    builtin = engine("fp16-mixed", 4.0)
    assert "is as fast as the built-in" in verdict("new", engine("plan", 3.94), builtin)
    assert "% faster than" in verdict("new", engine("plan", 3.8), builtin)
    assert how_well_known(Latency(None, (5.0, 6.0), 1, True)) == 1.0


def test_confirming_renders_and_times_in_the_runner(small, found):
    done = confirm(small, runner_named("onnxruntime"), found.plan.precision)
    assert done.drift.psnr_min == pytest.approx(found.outcome.drift.psnr_min, abs=1e-6)
    assert done.latency_ms > 0
    assert done.half_width > 0
    with pytest.raises(UserError, match="tensorrt cannot confirm the plan: TensorRT runs on an NVIDIA GPU"):
        confirm(small, runner_named("tensorrt"), found.plan.precision)


@pytest.fixture(scope="module")
def on_a_device(tiny, small, known, tmp_path_factory):
    """A search as on a GPU, with ONNX Runtime in TensorRT's place: plans are timed."""
    session = make_session(tiny, tmp_path_factory.mktemp("device"), small)
    runner = runner_named("onnxruntime")

    def search(reporter):
        return search_session(session, FP16, EASY, "easy", 1, reporter, kind=runner, simulator=known)

    return search


def test_finalists_are_timed_beside_the_built_in_as_on_a_gpu(on_a_device, known, monkeypatch):
    """Some of the plans that are timed hold more than the budget."""
    asked = []
    times = {"easy-0": 2.0, "fp16-mixed": 3.0, "fp16": 1.0}

    def timed(suite, kind, precision):
        asked.append(precision)
        drift = measure_drift(known.reference, known.frames(precision, [0]))
        return Confirmed(precision, drift, times.get(precision.name, 4.0))

    monkeypatch.setattr("sadtrt_core.accuracy.confirm.confirm", timed)
    said = Said()
    done = on_a_device(said)
    names = [precision.name for precision in asked]
    assert names[-2:] == ["fp16-mixed", "fp16"]
    assert len(names) > 3  # A plan for the budget, at least one for more than it, and the two built-in ones.
    assert len({(p.keep_coordinates, p.keep_nodes) for p in asked[:-2]}) == len(names) - 2
    assert done.plan.name == "easy"
    assert done.plan.precision == replace(asked[0], name="easy")
    facts = done.plan.measured
    assert (facts["runner"], facts["latency_ms"], facts["fp16_mixed_latency_ms"]) == ("onnxruntime", 2.0, 3.0)
    assert facts["fp16_psnr_min_db"] < 50 <= facts["psnr_min_db"]
    (beside,) = done.said
    assert "easy (2.000 ms, " in beside
    assert "33.3% faster than the built-in fp16-mixed (3.000 ms, " in beside
    assert any(line.startswith("fp16: 1.000 ms, ") for line in said.lines)


def test_an_engine_that_misses_the_budget_is_no_plan(on_a_device, monkeypatch):
    monkeypatch.setattr(
        "sadtrt_core.accuracy.confirm.confirm",
        lambda suite, kind, precision: replace(made(precision.name, 45, 1.0), precision=precision),
    )
    done = on_a_device(Said())
    assert done.plan is None
    assert done.said[0] == "onnxruntime gives 45.0 dB, max LSB 1 at best, where 50 dB is asked for"


def test_engines_are_built_together_and_one_that_fails_is_left_out(small, monkeypatch):
    """What is handed to the builder on a GPU, without one: level and number of processes are the command's."""
    handed = []

    def build_all(jobs, processes, progress):
        handed.append((jobs, processes))
        return tuple("no tactic" if job.precision.name == "b" else None for job in jobs)

    monkeypatch.setattr("sadtrt_core.accuracy.confirm.build_all", build_all)
    monkeypatch.setattr("sadtrt_core.accuracy.confirm.confirm", lambda suite, kind, p: made(p.name, 60, 1.0))
    monkeypatch.setattr(small, "options", replace(small.options, jobs=7, optimization_level=2))
    kind = replace(runner_named("tensorrt"), absence=lambda job: None)
    said = Said()
    with monkeypatch.context() as patch:
        patch.setitem(small.__dict__, "device", torch.device("cuda"))
        done = confirm_all(small, kind, [replace(FP16, name=name) for name in "abc"], said)
    ((jobs, processes),) = handed
    assert processes == 7
    assert [job.precision.name for job in jobs] == ["a", "b", "c"]
    assert {job.optimization_level for job in jobs} == {2}
    assert [item.precision.name for item in done] == ["a", "c"]
    assert "b: not built: no tactic" in said.lines


def test_without_a_gpu_the_built_in_is_beside_it_by_arithmetic(found):
    (beside,) = found.said
    assert beside.startswith("reached keeps ")
    assert "; the built-in fp16-mixed keeps " in beside


def test_engines_are_compared_by_all_their_repetitions(small, monkeypatch):
    """A GPU whose slow state lasts for the first of three repetitions sets no engine back."""
    ticks = SimpleNamespace(now=0.0)
    ticks.perf_counter = lambda: ticks.now
    monkeypatch.setattr("sadtrt_core.measure.timing.time", ticks)

    class Noisy:
        stream, notes, calls = None, (), 0
        job = SimpleNamespace(device=torch.device("cpu"))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def execute(self):
            self.calls += 1
            ticks.now += 0.00515 if self.calls <= 7 else 0.005

        def synchronize(self):
            pass

        def frames(self, items):
            pass

    plan = TimingPlan(1, 0.0, 0.0, 18, 18, repetitions=3, rewarm_calls=1)
    suite = SimpleNamespace(timing_plan=plan, sensors=Unavailable("none"), frame_inputs=list)
    suite.drift = lambda frames: Drift((60.0,), (1.0,), (1,), (False,))
    suite.case, suite.job = small.case, small.job
    kind = SimpleNamespace(name="onnxruntime", available=lambda job: None, create=lambda job: Noisy())
    assert confirm(suite, kind, FP16).latency_ms == pytest.approx(5.0)
