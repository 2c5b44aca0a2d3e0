"""The gate experiment's own counting: what it calls a false alarm, a catch and a run that others disturbed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sadtrt_core.case import Case

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), str(ROOT / "tests" / "records"), *sys.path])


def run(seed: int, factor: float = 1.0, others_percent: float | None = None):
    from record_examples import key, latency, measured, on_cpu, run_of

    from sadtrt_core.records.schema import Telemetry

    seen = Telemetry(None, None, None, None, others_percent=others_percent)
    rows = (
        measured(key(stage), latency=latency(None, factor * ms, seed=seed + ms), drift=None, telemetry=seen)
        for stage, ms in (("decode", 10), ("warp", 5))
    )
    return on_cpu(run_of(*rows))


def test_decisions_are_counted_by_what_the_gate_answers():
    from gate_decisions import StoredRun, all_pairs, power_decisions, same_code_decisions

    from sadtrt_core.gate.limits import Thresholds

    stored = [StoredRun(0.0, run(100 * seed), seed) for seed in range(4)]
    stored += [StoredRun(0.3, run(999, 1.3), 4), StoredRun(0.05, run(555, 1.05), 3)]
    same = same_code_decisions(all_pairs(stored), Thresholds())
    assert (same["decisions"], same["false_alarms"]["count"], same["not_comparable"]["count"]) == (12, 0, 0)
    alarms = same_code_decisions([(run(1, 1.3), run(2))], Thresholds())
    assert alarms["false_alarms"] == {"count": 1, "of": 1, "percent": 100.0}
    assert alarms["rows_called_worse"]["count"] == 2
    small, large = power_decisions(stored, Thresholds())[::2]
    assert (small["planted_percent"], small["caught"]["count"]) == (5.0, 0), "a CPU's default limit is 20%"
    assert small["median_limit_percent"] == 20.0
    assert small["interval_above_zero"] == {"count": 3, "of": 3, "percent": 100.0}, "not against its own group's"
    assert (large["planted_percent"], large["caught"]["percent"]) == (30.0, 100.0)
    assert large["median_change_percent"] == pytest.approx(30, abs=1)


def test_planted_losses_of_picture_are_what_they_are_called():
    from gate_decisions import _one_level_more

    from sadtrt_core.measure.drift import measure_drift

    random = np.random.default_rng(0)
    reference = torch.from_numpy(random.uniform(0.2, 0.8, (2, 3, 32, 32))).float()
    frames = reference + torch.from_numpy(random.normal(0, 0.01, reference.shape)).float()
    before, after = (measure_drift(reference, made) for made in (frames, _one_level_more(reference, frames)))
    assert after.max_lsb_worst == before.max_lsb_worst + 1
    louder = measure_drift(reference, reference + (frames - reference) * 10 ** (1 / 20))
    assert before.psnr_mean - louder.psnr_mean == pytest.approx(1.0, abs=0.001)


def test_a_disturbed_run_is_measured_again_while_patience_lasts(monkeypatch: pytest.MonkeyPatch):
    import gate_experiment

    monkeypatch.setattr(gate_experiment.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(gate_experiment.Patience, "_is_quiet_now", lambda self: True)
    disturbed, quiet = run(1, others_percent=60.0), run(1, others_percent=2.0)
    patience = gate_experiment.Patience(1000.0)
    given = [disturbed, disturbed, quiet]
    assert patience.measure(lambda: [given.pop(0)]) == [quiet]
    assert patience.again == 2
    taken = gate_experiment.Patience(0.0).measure(lambda: [disturbed])
    assert taken == [disturbed], "an impatient one takes what it gets"
    on_gpu = dataclasses.replace(
        disturbed,
        records=tuple(
            dataclasses.replace(row, latency=dataclasses.replace(row.latency, device_ms=row.latency.host_ms))
            for row in disturbed.records
        ),
    )
    assert gate_experiment.Patience(1000.0).measure(lambda: [on_gpu]) == [on_gpu], "device times do not suffer"


def test_plain_planted_and_fresh_runs_are_mixed():
    from gate_schedule import Step, schedule

    steps = schedule(21, 5, (0.03, 0.05), 5, together=False)
    kinds = (Step(), Step((0.03,)), Step((0.05,)), Step(fresh=True))
    assert [steps.count(kind) for kind in kinds] == [21, 5, 5, 5]
    assert steps[0] == Step()
    halves = steps[:18], steps[18:]
    assert all(half.count(kind) >= 2 for half in halves for kind in kinds)
    assert schedule(1, 3, (0.05,), 1, together=False)[0] == Step(), "whatever comes first by its place"


def test_where_runs_wait_for_their_next_visit_planted_ones_are_measured_meanwhile():
    from gate_schedule import Step, schedule

    steps = schedule(21, 5, (0.03, 0.05), 5, together=True)
    assert steps[:5] == [Step((0.0, 0.03, 0.05))] * 5
    assert steps[5:10] == [Step(fresh=True)] * 5, "first of all, once there is something to compare them with"
    assert steps[10:] == [Step()] * 16
    assert steps[0].words == "plain and planted 3% and planted 5%"


def test_a_budget_leaves_out_what_would_not_end_in_time():
    from gate_schedule import STARTED, Budget, Step

    now = [STARTED + 20.0]
    budget = Budget(60.0, lambda: now[0])
    plain, fresh = Step(), Step(fresh=True)
    budget.took(plain, 5.0)
    assert budget.fits(plain)
    assert budget.fits(fresh), "a fresh process takes as long as everything so far"
    now[0] += 15
    assert not budget.fits(fresh)
    budget.took(fresh, 22.0)
    assert budget.fits(fresh)
    now[0] += 21
    assert (budget.fits(plain), budget.fits(fresh)) == (False, False)
    assert Budget(None, lambda: 1e9).fits(fresh)


def test_a_whole_experiment_fits_into_its_budget_as_far_as_steps_take_what_they_do():
    """Steps of 13 s with planted runs and 8 s without, fresh processes of 15 s, 20 s to load: what an H200 may take."""
    from gate_schedule import STARTED, Budget, schedule

    now = [STARTED + 20.0]
    budget = Budget(250.0, lambda: now[0])
    done = []
    for step in schedule(21, 5, (0.03, 0.05), 5, together=True):
        if not done or budget.fits(step):
            seconds = 15.0 if step.fresh else 13.0 if len(step.levels) > 1 else 8.0
            now[0] += seconds
            budget.took(step, seconds)
            done.append(step)
    assert sum(step.fresh for step in done) == 5
    assert sum(not step.fresh for step in done) >= 15, "210 decisions, both ways"
    assert budget.spent() <= 250


def test_every_visit_can_be_judged_as_a_run_but_not_against_its_own():
    from gate_decisions import StoredRun, all_pairs
    from gate_experiment import Samples

    whole = run(1)
    times = whole.records[0].latency
    times = dataclasses.replace(times, device_ms=times.host_ms, visits=(0, 20, 40), disturbed=(5, 25), late=(26,))
    whole = dataclasses.replace(whole, records=(dataclasses.replace(whole.records[0], latency=times),))
    single = Samples([StoredRun(0.05, whole, 3)], [whole], 1).split(1)
    for cuts in ([item.run for item in single.stored], single.fresh):
        latencies = [cut.records[0].latency for cut in cuts]
        assert [latency.host_ms for latency in latencies] == [times.host_ms[i : i + 20] for i in (0, 20, 40)]
        assert [latency.visits for latency in latencies] == [(0,)] * 3
        assert [latency.disturbed for latency in latencies] == [(5,), (5,), ()]
        assert [latency.late for latency in latencies] == [(), (6,), ()]
    assert {(item.planted, item.group) for item in single.stored} == {(0.05, 3)}
    pair = Samples([], [whole]).split(2).fresh
    assert [part.records[0].latency.visits for part in pair] == [(0, 20)], "the third visit has no partner"
    assert Samples([], [whole]).split(3).fresh == [whole]
    assert Samples([], [run(1)]).split(1).fresh == [run(1)], "one stretch"
    two = Samples([StoredRun(0.0, whole, 3), StoredRun(0.0, whole, 4)]).split(1)
    assert len(all_pairs(two.stored)) == 2 * 3 * 3


def test_a_killed_experiment_leaves_its_samples(tmp_path):
    from gate_decisions import StoredRun
    from gate_experiment import SETTINGS, Samples
    from gate_table import decide, table

    samples = Samples([StoredRun(0.0, run(1), 0)])
    samples.write(tmp_path)
    read = Samples.read(tmp_path)
    assert (read.stored, read.fresh, read.again) == (samples.stored, [], 0)
    portrait = torch.rand(1, 3, 16, 16)
    answers = decide(read.stored, read.fresh, read.again, portrait, SETTINGS)
    assert answers["default limits"]["stored"]["decisions"] == 0
    assert "| stored runs, every two, both ways | 0 | 0 of 0 | 0 of 0 | 0 of 0 |" in table(answers, SETTINGS)
    with pytest.raises(ValueError, match="no run of unchanged code"):
        decide([], [], 0, portrait, SETTINGS)


def test_a_fresh_process_is_given_every_option_of_this_one(monkeypatch, tmp_path):
    """Told less, it would render another picture or build other engines, and the gate would compare nothing."""
    import gate_experiment

    arguments = ["gate_experiment.py", "--device", "cuda", "--weights", "demo", "--optimization-level", "2"]
    arguments += ["--grid-sample", "native", "--cache", str(tmp_path), "--source-image", "face.png", "--visits", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    options = gate_experiment.parse()
    asked = []

    def run_it(command, **_):
        asked.append(command)
        Path(command[command.index("--one-run") + 1]).write_text(json.dumps(run(1).to_json()))

    monkeypatch.setattr(gate_experiment.subprocess, "run", run_it)
    assert gate_experiment.fresh_run(options, ["decode:tensorrt:fp16"], 9.0) == [run(1)]
    monkeypatch.setattr(sys, "argv", asked[0][1:])
    given = vars(gate_experiment.parse())
    assert given["row"] == ["decode:tensorrt:fp16"]
    own = {"row", "one_run"}
    assert {name: value for name, value in given.items() if name not in own} == {
        name: value for name, value in vars(options).items() if name not in own
    }


class VirtualGpu:
    """Stands in for what the rows ask of CUDA: work is enqueued at once and ends after a virtual time in ms."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = 0.0

            def record(self, stream: object) -> None:
                self.at = gpu.now

            def synchronize(self) -> None:
                pass

            def query(self) -> bool:
                return False

            def elapsed_time(self, end: Event) -> float:
                return end.at - self.at

        def sleep(cycles: int) -> None:
            gpu.now += 0.003 + cycles / 1.98e6  # 3 us a launch, 1.98 GHz.

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "_sleep", sleep, raising=False)


def gpu_suite(gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch, ms: float, loads: list[str]):
    """A suite of one kind of runner, whose stage takes `ms` on the virtual GPU."""
    import gate_rows

    from sadtrt_core.measure.sensors import Reading
    from sadtrt_core.measure.timing import TimingPlan

    class Sensors:
        millijoules = 0.0

        def read(self) -> Reading:
            return Reading(1980.0, 3201.0, 45.0, 640.0, 7000.0, frozenset({"software power cap"}))

        def energy_mj(self) -> float:
            self.millijoules += 1000.0
            return self.millijoules

    class Runner:
        stream, engine_bytes = object(), 200_000_000
        job = SimpleNamespace(device=torch.device("cpu"), stage=SimpleNamespace(name="decode"))

        def __enter__(self):
            loads.append("decode")
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def bind(self, inputs: dict) -> None:
            pass

        def execute(self) -> None:
            gpu.now += ms

        def synchronize(self) -> None:
            pass

    kind = SimpleNamespace(name="tensorrt", create=lambda job: Runner(), available=lambda job: None)
    monkeypatch.setattr(gate_rows, "runner_named", lambda name: kind)
    memory = iter(range(1000, 100_000, 500))
    monkeypatch.setattr(gate_rows, "device_memory_free_of_leftovers", lambda device: float(next(memory)))
    monkeypatch.setattr("sadtrt_core.measure.rows.device_memory_used", lambda device: float(next(memory)))
    return SimpleNamespace(
        timing_plan=TimingPlan(2, 0.0, 0.0, 30, 40),
        sensors=Sensors(),
        inputs=lambda job: {},
        job=lambda stage, kind, precision, batch: Runner.job,
        key=lambda kind, job: Case("decode", "tensorrt", "fp16", "none", 1),
    )


@pytest.mark.parametrize("ms", [5.0, 0.46])
def test_a_row_stays_loaded_and_what_is_planted_takes_the_time_it_says(monkeypatch, ms):
    """3 us of launch are 0.65% of 0.46 ms: without taking them off, 5% would be 5.65%."""
    from gate_rows import Rows

    loads: list[str] = []
    gpu = VirtualGpu(monkeypatch)
    suite = gpu_suite(gpu, monkeypatch, ms, loads)
    with contextlib.ExitStack() as stack:
        rows = Rows(suite, stack)
        first, slow, again = (
            rows.first_visit("decode:tensorrt:fp16", planted).record() for planted in (0.0, 0.05, 0.0)
        )
    assert loads == ["decode"]
    assert first.latency.device_ms_median == pytest.approx(ms)
    assert slow.latency.device_ms_median == pytest.approx(1.05 * ms, rel=1e-3)
    assert first.latency.disturbed == again.latency.disturbed == ()
    assert first.telemetry.throttle_reasons == ("software power cap",)
    assert first.resources.gpu_memory_mb == again.resources.gpu_memory_mb == 500.0
    assert first.resources.energy_mj_per_frame > 0
    assert slow.resources.energy_mj_per_frame is None


def test_runs_that_are_measured_together_go_round_in_turn_and_share_no_samples(monkeypatch):
    """A plain and a planted run of one row: four visits each, two seconds apart."""
    from gate_rows import Rows

    gpu = VirtualGpu(monkeypatch)
    suite = gpu_suite(gpu, monkeypatch, 5.0, [])
    suite.timing_plan = dataclasses.replace(suite.timing_plan, visits=4, apart_seconds=2.0, visit_warmup_calls=2)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        gpu.now += 1e3 * seconds

    def clock() -> float:
        return gpu.now / 1e3

    with contextlib.ExitStack() as stack:
        rows = Rows(suite, stack, clock, sleep)
        (plain,), (planted,) = rows.measure(["decode:tensorrt:fp16"], (0.0, 0.05))
    assert plain.latency.visits == planted.latency.visits == (0, 8, 16, 24)
    assert plain.latency.device_ms_median == pytest.approx(5.0)
    assert planted.latency.device_ms_median == pytest.approx(5.25, rel=1e-3)
    # The other run's visits may be over exactly in time, or a rounding of the clock before.
    waits = [seconds for seconds in slept if seconds > 1e-4]
    assert len(waits) == 3, "the planted run's visits fall into the plain one's waits"
    assert all(1.7 < seconds < 2.0 for seconds in waits)


def test_rows_that_would_have_to_be_built_are_left_out_with_the_command(monkeypatch, tmp_path):
    import gate_rows

    job = SimpleNamespace(optimization_level=2, stage=SimpleNamespace(name="decode"), grid_sample="plugin")
    job.precision = SimpleNamespace(name="fp16")
    kind = SimpleNamespace(name="tensorrt", available=lambda job: None)
    monkeypatch.setattr(gate_rows, "runner_named", lambda name: kind)
    monkeypatch.setattr(gate_rows, "engine_job", lambda job, options: options)
    monkeypatch.setattr(gate_rows.api, "tensorrt_module", lambda: None)
    monkeypatch.setattr(gate_rows.api, "current_gpu", lambda: None)
    monkeypatch.setattr(gate_rows, "engine_key", lambda build, trt, gpu: build.optimization_level)
    monkeypatch.setattr(gate_rows, "engine_path", lambda build, key: tmp_path / f"level{key}.engine")
    options = SimpleNamespace(optimization_level=2, weights="fitted", cache=tmp_path)
    suite = SimpleNamespace(job=lambda *_: job, options=options)
    words = gate_rows.row_absence(suite, "decode:tensorrt:fp16")
    assert "its engine is not in the cache: run `sadtrt build --stage decode --precision fp16" in words
    assert "--optimization-level 2 --weights fitted" in words
    (tmp_path / "level2.engine").touch()
    assert gate_rows.row_absence(suite, "decode:tensorrt:fp16") is None
    with pytest.raises(ValueError, match="should be stage:runner:precision"):
        gate_rows.row_absence(suite, "decode:fp16")
