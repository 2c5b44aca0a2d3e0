from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_examples import (
    ENVIRONMENT,
    WEIGHTS,
    WORKLOAD,
    drift,
    key,
    latency,
    measured,
    on_cpu,
    run_of,
    samples,
)
from record_examples import runs as any_runs

from sadtrt_core.errors import UserError
from sadtrt_core.gate.baselines import find_baseline, write_baseline
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Override, Thresholds
from sadtrt_core.gate.named import gate_files
from sadtrt_core.gate.verdicts import ExitCode, GateResult, GateRow
from sadtrt_core.records.measurements import Drift, Latency, Resources, Sustained, Telemetry
from sadtrt_core.records.schema import Record, Run, Status
from sadtrt_core.records.store import read_run, write_run
from sadtrt_core.report.metrics import METRICS, Limit, Metric, default_limits

THRESHOLDS = Thresholds()


def judge(candidate: Record, baseline: Record, thresholds: Thresholds = THRESHOLDS) -> tuple[GateRow, int]:
    result = compare_runs(run_of(candidate), run_of(baseline), thresholds)
    (row,) = result.rows
    return row, result.exit_code


def device_times(values: object) -> Latency:
    times = tuple(float(value) for value in values)
    return Latency(times, times, 5, True)


# Latency


@pytest.mark.parametrize("seed", range(5))
def test_the_same_code_again_passes(seed: int) -> None:
    row, code = judge(measured(latency=latency(seed=seed)), measured(latency=latency(seed=seed + 50)))
    assert (row.verdict, row.reason, code) == ("same", "within_limit", ExitCode.PASS)


def test_a_slower_and_a_faster_row() -> None:
    slow, fast = measured(latency=latency(5.25, seed=1)), measured(latency=latency(5.0, seed=2))
    row, code = judge(slow, fast)
    assert (row.verdict, row.reason, code) == ("slower", "slower", ExitCode.REGRESSION)
    finding = row.finding("device_ms")
    assert finding is not None
    assert 4.5 < finding.low < finding.change < finding.high < 5.5
    assert "(+5." in row.detail or "(+4." in row.detail
    row, code = judge(fast, slow)
    assert (row.verdict, code) == ("faster", ExitCode.PASS)


def test_a_real_change_below_the_effect_of_interest_is_shown_and_passes() -> None:
    row, code = judge(measured(latency=latency(5.12, seed=1)), measured(latency=latency(5.0, seed=2)))
    finding = row.finding("device_ms")
    assert finding is not None
    assert (finding.verdict, finding.reason, code) == ("same", "below_effect", ExitCode.PASS)
    assert finding.change == pytest.approx(2.4, abs=0.3)


def test_a_busy_machine_is_not_called_slower() -> None:
    shifting = np.asarray(samples(5.0, 1)) * np.tile(np.repeat([1.0, 1.15], 10), 3)
    busy_run, quiet = measured(latency=device_times(shifting)), measured(latency=device_times(samples(5.0, 2)))
    row, code = judge(busy_run, quiet)
    assert (row.verdict, row.reason, code) == ("not comparable", "candidate_noisy", ExitCode.NOT_COMPARABLE)
    assert "this run's own repetitions: measure it again" in row.finding("device_ms").sentence
    # The baseline's noise is known to whoever accepted it, and excuses.
    slow = measured(latency=device_times(samples(5.65, 2)))
    row, code = judge(slow, busy_run)
    assert (row.verdict, row.reason, code) == ("same", "within_noise", ExitCode.PASS)
    assert "inside the baseline's noise" in row.finding("device_ms").sentence


@pytest.mark.parametrize("top", [1.2, 1.3, 1.6, 2.0])
def test_times_that_climb_through_a_run_are_no_noise(top: float) -> None:
    climbing = np.asarray(samples(5.0, 1)) * np.linspace(1.0, top, 60)
    _, code = judge(measured(latency=device_times(climbing)), measured(latency=device_times(samples(5.0, 2))))
    assert code in (ExitCode.REGRESSION, ExitCode.NOT_COMPARABLE)


def test_what_could_hide_any_change_never_passes() -> None:
    shifting = np.asarray(samples(5.0, 1)) * np.tile(np.repeat([1.0, 2.0], 15), 2)
    row, code = judge(measured(latency=device_times(samples(5.0, 2))), measured(latency=device_times(shifting)))
    assert (row.verdict, row.reason, code) == ("not comparable", "too_noisy", ExitCode.NOT_COMPARABLE)
    few = device_times(samples(5.0, 1)[:3])
    row, code = judge(measured(latency=few), measured(latency=few))
    assert (row.verdict, row.reason, code) == ("not comparable", "too_few_samples", ExitCode.NOT_COMPARABLE)
    none = device_times([0.0] * 60)
    row, code = judge(measured(latency=none), measured(latency=none))
    assert (row.reason, code) == ("zero_times", ExitCode.NOT_COMPARABLE)


def test_samples_disturbed_by_a_clock_drop_are_left_out_and_said() -> None:
    times = np.asarray(samples(5.0, 1))
    times[10:38] *= 1.5
    disturbed = dataclasses.replace(device_times(times), disturbed=tuple(range(10, 38)))
    baseline = measured(latency=device_times(samples(5.0, 2)))
    row, code = judge(measured(latency=disturbed), baseline)
    assert (row.verdict, code) == ("same", ExitCode.PASS)
    assert "28 disturbed samples left out" in row.finding("device_ms").sentence
    mostly = dataclasses.replace(device_times(np.asarray(samples(5.5, 1))), disturbed=tuple(range(40)))
    row, code = judge(measured(latency=mostly), baseline)
    assert (row.verdict, code) == ("slower", ExitCode.REGRESSION)
    assert "most samples were disturbed" in row.detail


def test_host_time_is_judged_beside_device_time_and_alone_on_a_cpu() -> None:
    row, code = judge(measured(latency=latency(5.0, 8.0, seed=1)), measured(latency=latency(5.0, 5.5, seed=2)))
    assert (row.verdict, row.findings[0].metric, code) == ("slower", "host_ms", ExitCode.REGRESSION)
    slow, fast = (on_cpu(run_of(measured(latency=latency(None, ms, seed=int(ms))))) for ms in (130.0, 100.0))
    result = compare_runs(slow, fast, THRESHOLDS)
    assert (result.rows[0].verdict, result.exit_code) == ("slower", ExitCode.REGRESSION)
    row, code = judge(measured(latency=latency(None)), measured(latency=latency()))
    assert (row.verdict, row.reason, code) == ("not comparable", "clock_differs", ExitCode.NOT_COMPARABLE)


def host(**figures: float | None) -> Telemetry:
    return Telemetry(None, None, None, None, **figures)


def busy(percent: float | None) -> Telemetry:
    return host(others_percent=percent)


def on_hosts(mine: Telemetry | None, theirs: Telemetry | None, slowdown: float = 1.3) -> GateResult:
    """The gate's answer on two runs of a CPU, the candidate `slowdown` times as slow, and how the hosts were."""
    runs = []
    for ms, telemetry in ((100.0 * slowdown, mine), (100.0, theirs)):
        record = measured(latency=latency(None, ms, seed=int(ms)), telemetry=telemetry)
        runs.append(on_cpu(run_of(record)))
    return compare_runs(runs[0], runs[1], THRESHOLDS)


@pytest.mark.parametrize(
    ("mine", "theirs", "words"),
    [
        (busy(45.0), busy(2.0), "other processes took 45% of the processors"),
        (busy(None), busy(45.0), "other processes took 45% of the processors"),
        (
            host(waited_percent=0.1),
            host(waited_percent=30.0),
            "this process waited for a processor for 30% of the time",
        ),
        (host(waited_percent=0.1), busy(45.0), "other processes took 45% of the processors"),
    ],
)
def test_host_times_of_a_busy_machine_are_not_judged(mine: Telemetry, theirs: Telemetry, words: str) -> None:
    assert on_hosts(busy(3.0), busy(None)).exit_code == ExitCode.REGRESSION
    result = on_hosts(mine, theirs)
    assert (result.rows[0].verdict, result.rows[0].reason) == ("not comparable", "machine_busy")
    assert words in result.rows[0].detail
    assert result.exit_code == ExitCode.NOT_COMPARABLE


def test_others_at_work_beside_a_free_processor_are_no_reason_not_to_judge() -> None:
    beside = host(others_percent=50.0, waited_percent=0.6)
    assert on_hosts(beside, beside).exit_code == ExitCode.REGRESSION
    assert on_hosts(beside, beside, 1.0).exit_code == ExitCode.PASS


@pytest.mark.parametrize("slowdown", [1.0, 1.3])
def test_a_machine_of_another_speed_is_not_compared(slowdown: float) -> None:
    quick, slow = host(yardstick_ms=0.30), host(yardstick_ms=0.36)
    result = on_hosts(slow, quick, slowdown)
    assert (result.rows[0].reason, result.exit_code) == ("machine_speed", ExitCode.NOT_COMPARABLE)
    assert "took 0.3 ms in the baseline's run and 0.36 ms in this one: the machine itself was slower" in str(result)
    assert "the machine itself was faster" in on_hosts(quick, slow, slowdown).rows[0].detail, "or it hides a regression"
    assert on_hosts(host(yardstick_ms=0.32), quick, 1.3).exit_code == ExitCode.REGRESSION


@pytest.mark.parametrize("slowdown", [1.0, 1.3])
def test_a_speed_that_only_one_run_knows_is_no_comparison(slowdown: float) -> None:
    for pair in ((host(yardstick_ms=0.3), busy(1.0)), (None, host(yardstick_ms=0.3))):
        result = on_hosts(*pair, slowdown)
        assert (result.rows[0].reason, result.exit_code) == ("machine_speed", ExitCode.NOT_COMPARABLE)
        assert "record the baseline again" in result.rows[0].detail


def on_cpu_times(*times: np.ndarray) -> GateResult:
    """The gate's answer on host times of a CPU, candidate first."""
    runs = [on_cpu(run_of(measured(latency=Latency(None, tuple(map(float, one)), 3, True)))) for one in times]
    return compare_runs(runs[0], runs[1], THRESHOLDS)


def test_on_a_cpu_the_fastest_quarter_is_judged_since_others_only_add() -> None:
    draw = np.random.default_rng(1)
    quiet = np.asarray(samples(5.0, 1, 60))
    interrupted = np.asarray(samples(5.0, 2, 60)) * np.where(draw.random(60) < 0.6, draw.uniform(1.2, 4, 60), 1.0)
    assert np.median(interrupted) > 1.3 * np.median(quiet)
    result = on_cpu_times(interrupted, quiet)
    assert (result.rows[0].verdict, result.exit_code) == ("same", ExitCode.PASS)
    assert "(fastest quarter)" in result.rows[0].finding("host_ms").sentence
    assert on_cpu_times(1.35 * interrupted, quiet).rows[0].verdict == "slower"


def test_a_run_of_more_samples_does_not_seem_the_faster_for_it() -> None:
    """Ten samples are all judged; of forty from the same distribution as large a share is."""
    draw = np.random.default_rng(4)
    for _ in range(20):
        few, many = (5.0 * (1 + draw.uniform(0, 0.1, count)) for count in (10, 40))
        finding = on_cpu_times(many, few).rows[0].finding("host_ms")
        assert finding.candidate == pytest.approx(float(np.median(many)))


def test_times_that_never_come_near_their_fastest_are_not_compared() -> None:
    quiet = np.asarray(samples(5.0, 1, 60))
    noisy = np.linspace(5.0, 12.0, 60)
    for pair in ((noisy, quiet), (quiet, noisy)):
        result = on_cpu_times(*pair)
        assert (result.rows[0].reason, result.exit_code) == ("too_noisy", ExitCode.NOT_COMPARABLE)
        assert "something disturbed most" in result.rows[0].detail


def test_device_times_are_judged_on_a_busy_host() -> None:
    noisy = measured(latency=latency(5.0, 9.0, seed=1), telemetry=busy(60.0))
    row, code = judge(noisy, measured(latency=latency(5.0, 5.5, seed=2)))
    assert (row.verdict, row.finding("host_ms").reason, code) == ("same", "machine_busy", ExitCode.PASS)
    slower = measured(latency=latency(6.0, 9.0, seed=1), telemetry=busy(60.0))
    assert judge(slower, measured(latency=latency(5.0, 5.5, seed=2)))[1] == ExitCode.REGRESSION


def decisions(slowdown: float, count: int, spread: float, between: float) -> int:
    """How many of `count` simulated pairs of runs are called slower; spreads are relative, within and between runs."""
    draw = np.random.default_rng(11)
    called = 0
    for _ in range(count):
        made = []
        for factor in (1.0 + slowdown, 1.0):
            level = factor * np.exp(draw.normal(0, between))
            drifting = np.linspace(0, draw.normal(0, spread / 2), 60)
            made.append(5.0 * level * np.exp(draw.normal(0, spread, 60) + drifting))
        row, _ = judge(*(measured(latency=device_times(times)) for times in made))
        called += row.verdict == "slower"
    return called


def test_identical_code_raises_no_alarm_and_five_percent_is_caught() -> None:
    # A quiet GPU: half a percent from sample to sample, a little less from run to run.
    assert decisions(0.0, 100, spread=0.005, between=0.004) <= 1
    assert decisions(0.05, 100, spread=0.005, between=0.004) >= 95


def test_noise_of_a_shared_cpu_raises_no_alarm() -> None:
    assert decisions(0.0, 100, spread=0.08, between=0.008) <= 1


# Visits


def visited(*levels_ms: float, seed: int = 0, disturbed: tuple[int, ...] = ()) -> Latency:
    """Device times of visits of 50 samples, around these levels."""
    parts = [samples(ms, seed + index, 50, 0.002) for index, ms in enumerate(levels_ms)]
    times = tuple(ms for part in parts for ms in part)
    return Latency(times, times, 5, True, disturbed, tuple(range(0, len(times), 50)))


def test_a_run_is_judged_by_all_its_visits() -> None:
    fast, slow = 3.95, 4.00
    row, code = judge(
        measured(latency=visited(fast, slow, slow, slow)), measured(latency=visited(slow, slow, slow, slow, seed=20))
    )
    assert (row.verdict, code) == ("same", ExitCode.PASS)
    finding = row.finding("device_ms")
    assert (finding.baseline, finding.candidate) == (pytest.approx(slow, rel=2e-3), pytest.approx(slow, rel=2e-3))
    slower = visited(*(1.05 * ms for ms in (fast, slow, slow, slow)), seed=1)
    assert judge(measured(latency=slower), measured(latency=visited(slow, slow, slow, slow)))[0].verdict == "slower"


def late(times: Latency, share: float) -> Latency:
    """The device was there before the host in this share of the calls."""
    return dataclasses.replace(times, late=tuple(range(round(share * len(times.host_ms)))))


def test_samples_in_which_the_host_was_late_are_left_out() -> None:
    times = np.asarray(samples(5.0, 1))
    times[:20] *= 1.5
    baseline = measured(latency=device_times(samples(5.0, 2)))
    few = judge(measured(latency=late(device_times(times), 20 / len(times))), baseline)[0].finding("device_ms")
    assert few.candidate == pytest.approx(5.0, rel=5e-3)
    assert "20 launch-bound samples left out" in few.sentence


def test_late_samples_are_left_out_even_where_others_were_disturbed() -> None:
    """Neither half is bad, but together they are: waiting for the host must not pass for the baseline's time."""
    times = np.asarray(samples(5.0, 1))
    times[:18] *= 2
    baseline = dataclasses.replace(late(device_times(times), 18 / len(times)), disturbed=tuple(range(20, 36)))
    finding = judge(measured(latency=device_times(samples(5.75, 2))), measured(latency=baseline))[0].finding(
        "device_ms"
    )
    assert (finding.verdict, finding.baseline) == ("slower", pytest.approx(5.0, rel=5e-3))
    assert "18 launch-bound samples left out" in finding.sentence


def test_device_times_that_include_waiting_for_the_host_have_the_hosts_limit() -> None:
    new, old = (device_times(samples(level, seed)) for level, seed in ((5.3, 1), (5.0, 2)))
    assert judge(measured(latency=new), measured(latency=old))[0].finding("device_ms").verdict == "slower"
    both = [measured(latency=late(times, 1.0)) for times in (new, old)]
    finding = judge(*both)[0].finding("device_ms")
    assert (finding.verdict, finding.limit) == ("same", pytest.approx(10.0))
    for pair in ((late(new, 1.0), old), (new, late(old, 1.0))):
        row, code = judge(*(measured(latency=times) for times in pair))
        finding = row.finding("device_ms")
        assert (finding.verdict, finding.reason, code) == ("not comparable", "pace_differs", ExitCode.NOT_COMPARABLE)
    waiting = Telemetry(None, None, None, None, waited_percent=60.0)
    row, code = judge(dataclasses.replace(both[0], telemetry=waiting), both[1])
    assert (row.finding("device_ms").reason, code) == ("machine_busy", ExitCode.NOT_COMPARABLE)


def test_host_times_beside_device_times_that_vary_too_much_are_not_judged() -> None:
    """One visit of four in which the host was twice as slow: the device's times say what is to be said."""
    device = visited(0.104, 0.104, 0.104, 0.104)
    host = visited(0.29, 0.29, 0.56, 0.30).host_ms
    noisy = dataclasses.replace(device, host_ms=host)
    row, code = judge(measured(latency=noisy), measured(latency=noisy))
    assert (row.finding("host_ms").reason, row.verdict, code) == ("too_noisy", "same", ExitCode.PASS)
    slower = dataclasses.replace(noisy, device_ms=tuple(1.1 * ms for ms in device.device_ms))
    assert judge(measured(latency=slower), measured(latency=noisy))[0].verdict == "slower"


def test_a_host_time_that_was_not_judged_is_said_in_the_row() -> None:
    device = visited(5.0, 5.0, 5.0, 5.0)
    noisy = dataclasses.replace(device, host_ms=visited(5.0, 5.0, 9.0, 14.0).host_ms)
    tripled = dataclasses.replace(device, host_ms=visited(15.0, 15.0, 15.0, 15.0).host_ms)
    row, code = judge(measured(latency=tripled), measured(latency=noisy))
    assert (row.verdict, code) == ("same", ExitCode.PASS)
    assert "not judged" in row.detail
    assert "host time" in row.detail
    # Where device times are not judged either, nothing is left to judge by.
    host_alone = Thresholds(limits=default_limits() | {"slowdown_percent": None})
    row, code = judge(
        measured(latency=tripled),
        measured(latency=noisy),
        Thresholds(limits=default_limits() | {"slowdown_percent": None}),
    )
    assert (row.verdict, row.reason, code) == ("not comparable", "too_noisy", ExitCode.NOT_COMPARABLE)
    waiting = Telemetry(None, None, None, None, waited_percent=60.0)
    busy = measured(latency=device, telemetry=waiting)
    assert "host time was not judged" in judge(busy, measured(latency=device))[0].detail
    assert judge(busy, measured(latency=device), host_alone)[1] == ExitCode.NOT_COMPARABLE


def test_a_late_sample_has_a_host_time_like_any_other() -> None:
    slow = dataclasses.replace(device_times(samples(5.0, 1)), host_ms=tuple(samples(5.0, 1)[:30]) + (8.0,) * 30)
    marked = dataclasses.replace(slow, late=tuple(range(30, 60)))
    for latency_of in (slow, marked):
        finding = judge(measured(latency=latency_of), measured(latency=device_times(samples(5.0, 2))))[0]
        assert finding.finding("host_ms").candidate > 5.5


def test_visits_that_are_apart_widen_the_limit_from_the_baselines_side_alone() -> None:
    level, apart = visited(4.0, 4.0, 4.0, 4.0), visited(3.8, 4.2, 3.8, 4.2)
    limits = [
        judge(*(measured(latency=times) for times in pair))[0].finding("device_ms").limit
        for pair in ((level, apart), (apart, level), (apart, apart))
    ]
    assert limits == [pytest.approx(18, abs=2), 3.5, limits[0]]


def test_states_of_eight_visits_hide_no_slowdown_of_five_percent() -> None:
    fast, slow = 3.88, 3.98
    for levels in ((slow, slow, fast, fast), (fast, slow, fast, slow), (slow, slow, slow, slow)):
        old = visited(*levels, *levels)
        finding = judge(measured(latency=old), measured(latency=visited(*levels, *levels, seed=7)))[0]
        assert (finding.verdict, finding.finding("device_ms").limit) == ("same", 3.5)
        slower = visited(*(1.05 * ms for ms in (*levels, *levels)), seed=3)
        assert judge(measured(latency=slower), measured(latency=old))[0].verdict == "slower"


def test_a_row_that_one_run_visited_just_once_is_not_comparable() -> None:
    several, once = visited(4.92, 4.75, 4.92, 4.92), visited(4.75)
    for new, old in ((once, several), (several, once)):
        row, code = judge(measured(latency=new), measured(latency=old))
        assert (row.finding("device_ms").reason, code) == ("visits_differ", ExitCode.NOT_COMPARABLE)
    more = visited(*[4.75] * 8)
    assert judge(measured(latency=more), measured(latency=visited(*[4.75] * 4, seed=9)))[1] == ExitCode.PASS
    stretch = dataclasses.replace(once, visits=())
    assert judge(measured(latency=once), measured(latency=stretch))[1] == ExitCode.PASS, "one stretch is one visit"


def test_slow_noise_of_fifty_samples_hides_no_five_percent() -> None:
    """Half a percent from sample to sample, more than any TensorRT row has on an H200, must not widen the limit."""
    for seed in range(20):
        new, old = (device_times(samples(4.75, start + seed, 50, 0.005)) for start in (0, 100))
        finding = judge(measured(latency=new), measured(latency=old))[0].finding("device_ms")
        assert 3.0 <= finding.limit < 4.0


def test_host_times_of_rows_launched_kernel_by_kernel_have_a_limit_of_their_own() -> None:
    def limits(runner: str, ms: float) -> tuple[int, int]:
        new, old = (
            measured(key("warp", "fp32", runner), latency=device_times(samples(ms, seed, spread=0.001)))
            for seed in (0, 1)
        )
        row, _ = judge(new, old)
        device, host = (row.finding(metric) for metric in ("device_ms", "host_ms"))
        return device.limit, host.limit

    assert limits("pytorch", 0.47) == limits("tensorrt-enqueue", 0.47) == (3.5, 25)
    assert limits("pytorch", 14.4) == (3.5, 25), "the generator in half: 45 ms in fp32"
    for runner, ms in (("tensorrt", 0.47), ("pytorch", 45.0), ("tensorrt-enqueue", 4.7)):
        assert limits(runner, ms) == (3.5, 10)


# Picture


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (drift((69.0, 71.0)), "psnr_min_drop"),
        (drift((70.0, 71.0)), "psnr_mean_drop"),
        (drift(lsb=(2, 3)), "lsb_rise"),
        (drift(ssim=(0.999, 0.99)), "ssim_drop"),
        (drift(flicker_db=(60.0,)), "flicker_drop"),
        (Drift((70.0, math.nan), (0.999, math.nan), (2, 2), (False, True), (66.0,)), "non_finite"),
    ],
)
def test_a_worse_picture_is_a_regression(candidate: Drift, reason: str) -> None:
    row, code = judge(measured(drift=candidate), measured(drift=drift(flicker_db=(66.0,))))
    reasons = [finding.reason for finding in row.findings if finding.verdict == "worse picture"]
    if candidate.flicker_db:
        assert reasons == [reason]
    assert reason in reasons
    assert (row.verdict, code) == ("worse picture", ExitCode.REGRESSION)


@given(st.floats(1.0, 40.0), st.floats(20.0, 88.0), st.integers(0, 254))
def test_one_decibel_or_one_grey_level_is_always_caught(loss: float, level: float, lsb: int) -> None:
    before = measured(latency=None, drift=drift((level, level), (lsb, lsb)))
    row, code = judge(measured(latency=None, drift=drift((level - loss, level), (lsb, lsb))), before)
    assert (row.verdict, code) == ("worse picture", ExitCode.REGRESSION)
    row, code = judge(measured(latency=None, drift=drift((level, level), (lsb, lsb + 1))), before)
    assert (row.reason, code) == ("lsb_rise", ExitCode.REGRESSION)


def test_changes_beyond_what_can_be_seen_pass() -> None:
    row, code = judge(measured(drift=drift((100.0, 101.0))), measured(drift=drift((None, 118.0))))
    assert (row.verdict, code) == ("same", ExitCode.PASS)
    row, _ = judge(measured(drift=drift((90.0, 101.0))), measured(drift=drift((70.0, 72.0))))
    assert row.verdict == "same"


def test_a_nan_frame_never_passes_not_even_in_a_new_row_or_with_a_nan_baseline() -> None:
    broken = measured(drift=Drift((70.0, math.nan), (0.999, math.nan), (2, 255), (False, True)))
    row, code = judge(broken, broken)
    assert (row.verdict, row.reason, code) == ("worse picture", "non_finite", ExitCode.REGRESSION)
    assert "1 of 2 frames hold NaN or infinity, frame 1 first" in row.detail
    new = compare_runs(run_of(broken, measured(key("warp"))), run_of(measured(key("warp"))), THRESHOLDS)
    assert new.exit_code == ExitCode.REGRESSION
    meaningless = dataclasses.replace(broken, drift=dataclasses.replace(broken.drift, meaningful=False))
    assert judge(meaningless, measured())[1] == ExitCode.REGRESSION


def test_drift_that_cannot_be_compared() -> None:
    row, code = judge(measured(drift=drift(reference="pytorch fp64")), measured())
    assert (row.reason, code) == ("reference_differs", ExitCode.NOT_COMPARABLE)
    row, code = judge(measured(drift=drift((70.0,), (2,))), measured())
    assert (row.reason, code) == ("frames_differ", ExitCode.NOT_COMPARABLE)
    worse = measured(latency=None, resources=None, drift=drift((30.0, 30.0), meaningful=False))
    row, code = judge(worse, measured(latency=None, resources=None, drift=drift(meaningful=False)))
    assert (row.reason, code) == ("not_meaningful", ExitCode.NOT_COMPARABLE)


# Sizes and energy


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (Resources(900.0, 240.0, 800.0), "engine_growth"),
        (Resources(1100.0, 220.0, 800.0), "memory_growth"),
        (Resources(900.0, 220.0, 1000.0), "energy_growth"),
    ],
)
def test_growth_is_a_regression(resources: Resources, reason: str) -> None:
    row, code = judge(measured(resources=resources), measured())
    assert (row.verdict, row.reason, code) == ("heavier", reason, ExitCode.REGRESSION)


def test_small_growth_passes_and_a_figure_that_vanished_does_not() -> None:
    small = measured(resources=Resources(40.0, 2.0, 800.0))
    assert judge(measured(resources=Resources(60.0, 2.4, 850.0)), small)[1] == ExitCode.PASS
    row, code = judge(measured(resources=None), measured())
    assert (row.verdict, row.reason, code) == ("missing", "part_missing", ExitCode.ROWS_MISSING)
    assert judge(measured(), measured(resources=None))[1] == ExitCode.PASS
    zero = measured(resources=Resources(None, 0.0))
    row, code = judge(measured(resources=Resources(None, 5.0)), zero)
    assert (row.reason, code) == ("engine_growth", ExitCode.REGRESSION)
    json.dumps(row.to_json(), allow_nan=False)


# Rows that are not in both


def test_missing_new_failed_and_skipped_rows() -> None:
    died = Record(key("decode"), "failed", "RuntimeError: the runner died")
    skipped = Record(key("warp"), "skipped", "no plugin")
    baseline = run_of(
        measured(), measured(key("decode")), measured(key("warp")), measured(key("motion")), measured(key("mapping"))
    )
    candidate = run_of(measured(), died, skipped, measured(key("clip")), measured(key("mapping"), drift=None))
    result = compare_runs(candidate, baseline, THRESHOLDS)
    answers = {row.key.stage: (row.verdict, row.reason) for row in result.rows}
    assert answers == {
        "clip": ("new", "new"),
        "decode": ("missing", "failed"),
        "generator": ("same", "within_limit"),
        "mapping": ("missing", "part_missing"),
        "motion": ("missing", "absent"),
        "warp": ("missing", "skipped"),
    }
    assert result.exit_code == ExitCode.ROWS_MISSING
    assert result.headline() == "gate: rows missing (4 missing, 1 new, 1 same)"
    assert "the runner died" in next(row.detail for row in result.rows if row.key.stage == "decode")


def test_rows_without_a_baseline() -> None:
    failed, skipped = Record(key("warp"), "failed", "no memory"), Record(key("warp"), "skipped", "no GPU")
    base = run_of(measured())
    assert compare_runs(run_of(measured(), failed), base, THRESHOLDS).exit_code == ExitCode.ROWS_MISSING
    assert compare_runs(run_of(measured(), skipped), base, THRESHOLDS).exit_code == ExitCode.PASS
    both = compare_runs(run_of(measured(), skipped), run_of(measured(), skipped), THRESHOLDS)
    assert [row.reason for row in both.rows] == ["within_limit", "both_skipped"]
    assert both.exit_code == ExitCode.PASS
    new = compare_runs(run_of(measured(), measured(key("warp"))), run_of(measured(), failed), THRESHOLDS)
    assert [row.verdict for row in new.rows] == ["same", "new"]


def test_ranges_of_another_calibration_are_not_compared() -> None:
    row, code = judge(measured(calibration="a" * 16), measured(calibration="b" * 16))
    assert (row.verdict, row.reason, code) == ("not comparable", "calibration", ExitCode.NOT_COMPARABLE)
    assert "ranges bbbbbbbbbbbbbbbb in the baseline, aaaaaaaaaaaaaaaa now" in row.findings[0].sentence
    row, code = judge(measured(calibration="a" * 16), measured(calibration=None))
    assert (row.reason, code) == ("calibration", ExitCode.NOT_COMPARABLE)
    assert row.findings[0].sentence == (
        "ranges of no known calibration in the baseline, aaaaaaaaaaaaaaaa now: measure both with one calibration"
    )
    assert judge(measured(calibration=None), measured(calibration="a" * 16))[1] == ExitCode.NOT_COMPARABLE
    assert judge(measured(calibration="a" * 16), measured(calibration="a" * 16))[1] == ExitCode.PASS


def test_another_benchmark_version_is_not_compared() -> None:
    row, code = judge(measured(benchmark_version=2), measured())
    assert (row.verdict, row.reason, code) == ("not comparable", "benchmark_version", ExitCode.NOT_COMPARABLE)


def test_a_regression_outweighs_missing_rows() -> None:
    slow = run_of(measured(latency=latency(6.0)))
    assert compare_runs(slow, run_of(measured(), measured(key("warp"))), THRESHOLDS).exit_code == ExitCode.REGRESSION


# Whole runs


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"environment": {"gpu": "NVIDIA A100"}},
            r"the GPU changed: NVIDIA H200 \(compute capability 9.0\) in the baseline, NVIDIA A100",
        ),
        ({"environment": {"gpu": None}}, "the GPU changed: .*None in this run"),
        ({"environment": {"driver": "580.1"}}, "the driver changed: 575.57 in the baseline, 580.1 in this run"),
        (
            {"environment": {"tensorrt": "10.9.0"}},
            "TensorRT changed: tensorrt 8.6.0 in the baseline, tensorrt 10.9.0 in this run",
        ),
        (
            {"environment": {"tensorrt_flavour": "tensorrt_rtx"}},
            "TensorRT changed: tensorrt 8.6.0 in the baseline, tensorrt_rtx 8.6.0",
        ),
        ({"weights": {"digest": "other"}}, "the weights changed"),
        ({"workload": {"size": 512}}, "the picture size changed: 256 in the baseline, 512 in this run"),
        ({"workload": {"digest": "other"}}, "the workload changed"),
    ],
)
def test_runs_of_another_kind_are_not_compared(changes: dict, words: str) -> None:
    parts = {"environment": ENVIRONMENT, "weights": WEIGHTS, "workload": WORKLOAD}
    other = {name: dataclasses.replace(parts[name], **change) for name, change in changes.items()}
    result = compare_runs(run_of(measured(), **other), run_of(measured()), THRESHOLDS)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert {row.verdict for row in result.rows} == {"not comparable"}
    assert any(re.search(words, problem) for problem in result.problems)


def test_another_processor_matters_only_without_a_gpu() -> None:
    other = dataclasses.replace(ENVIRONMENT, cpu="EPYC")
    result = compare_runs(run_of(measured(), environment=other), run_of(measured()), THRESHOLDS)
    assert result.exit_code == ExitCode.PASS
    record = measured(latency=latency(None))
    result = compare_runs(on_cpu(run_of(record, environment=other)), on_cpu(run_of(record)), THRESHOLDS)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert result.rows[0].reason == "cpu_differs"


def test_what_may_be_the_change_under_test_is_only_remarked() -> None:
    other = dataclasses.replace(ENVIRONMENT, torch="2.14.0", dirty=True)
    candidate = run_of(measured(), environment=other, options={"grid_sample": "plugin"})
    result = compare_runs(candidate, run_of(measured()), THRESHOLDS)
    assert result.exit_code == ExitCode.PASS
    assert result.remarks == (
        "torch: 2.13.0 in the baseline, 2.14.0 now",
        "option grid_sample: native in the baseline, plugin now",
        "this run's checkout had changes that are not committed",
    )


SKIPPED = Record(key(), "skipped", "no GPU")


@pytest.mark.parametrize(
    ("candidate", "baseline", "code"),
    [
        (run_of(), run_of(measured()), ExitCode.NOT_COMPARABLE),
        (run_of(measured()), run_of(), ExitCode.NOT_COMPARABLE),
        (run_of(), run_of(), ExitCode.NOT_COMPARABLE),
        (run_of(measured(), complete=False), run_of(measured()), ExitCode.NOT_COMPARABLE),
        (run_of(measured()), run_of(measured(), complete=False), ExitCode.NOT_COMPARABLE),
        (run_of(SKIPPED), run_of(measured()), ExitCode.ROWS_MISSING),
        (run_of(measured()), run_of(SKIPPED), ExitCode.NOT_COMPARABLE),
        (run_of(SKIPPED), run_of(SKIPPED), ExitCode.NOT_COMPARABLE),
        (run_of(measured(key("warp"))), run_of(measured()), ExitCode.ROWS_MISSING),
    ],
)
def test_it_fails_closed(candidate: Run, baseline: Run, code: ExitCode) -> None:
    assert compare_runs(candidate, baseline, THRESHOLDS).exit_code == code


def test_limits_that_are_all_off_compare_nothing_and_so_do_not_pass() -> None:
    off = Thresholds(dict.fromkeys(default_limits()))
    row, code = judge(measured(), measured(), off)
    assert (row.reason, code) == ("not_judged", ExitCode.NOT_COMPARABLE)


def test_overrides_reach_their_rows_only() -> None:
    lenient = Thresholds(overrides=(Override("generator", None, "fp16", {"slowdown_percent": 8.0}),))
    slow, fast = (
        run_of(*(measured(key(stage), latency=latency(ms, seed=int(10 * ms))) for stage in ("generator", "warp")))
        for ms in (5.3, 5.0)
    )
    result = compare_runs(slow, fast, lenient)
    assert [(row.key.stage, row.verdict) for row in result.rows] == [("generator", "same"), ("warp", "slower")]


@settings(max_examples=25, deadline=None)
@given(any_runs, any_runs, st.randoms(use_true_random=False))
def test_the_verdict_does_not_depend_on_the_order_of_rows(first: Run, second: Run, shuffle: random.Random) -> None:
    second = dataclasses.replace(
        second,
        environment=first.environment,
        weights=first.weights,
        workload=first.workload,
        complete=True,
        records=tuple({**{r.key: r for r in first.records[::2]}, **{r.key: r for r in second.records}}.values()),
    )
    first = dataclasses.replace(first, complete=True)
    answer = compare_runs(first, second, THRESHOLDS)
    shuffled = [
        dataclasses.replace(run, records=tuple(shuffle.sample(run.records, len(run.records))))
        for run in (first, second)
    ]
    assert compare_runs(*shuffled, THRESHOLDS) == answer
    if answer.exit_code == ExitCode.PASS:
        assert any(finding.limit is not None for row in answer.rows for finding in row.findings)
    json.dumps(answer.to_json(), allow_nan=False)


def test_the_order_of_measured_rows_changes_nothing() -> None:
    records = [
        measured(key(stage), latency=latency(5.0 + seed / 10, seed=seed), drift=drift((70.0 - seed, 75.0)))
        for seed, stage in enumerate(("generator", "warp", "decode", "motion"))
    ]
    baseline = run_of(*(measured(record.key) for record in records))
    answer = compare_runs(run_of(*records), baseline, THRESHOLDS)
    assert {row.verdict for row in answer.rows} == {"same", "worse picture"}
    assert compare_runs(run_of(*records[::-1]), baseline, THRESHOLDS) == answer


# Files


def gate_in(tmp_path: Path, candidate: Run, baseline: Run) -> GateResult:
    write_run(candidate, tmp_path / "candidate.json")
    write_run(baseline, tmp_path / "baseline.json")
    return gate_files(tmp_path / "candidate.json", tmp_path / "baseline.json", THRESHOLDS)


def test_files_that_cannot_be_used_never_pass(tmp_path: Path) -> None:
    assert gate_in(tmp_path, run_of(measured(latency=latency(seed=9))), run_of(measured())).exit_code == ExitCode.PASS
    content = (tmp_path / "baseline.json").read_bytes()
    (tmp_path / "baseline.json").write_bytes(content[:-100])
    result = gate_files(tmp_path / "candidate.json", tmp_path / "baseline.json", THRESHOLDS)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert "the baseline cannot be used" in result.problems[0]
    assert "truncated" in result.problems[0]
    (tmp_path / "baseline.json").write_bytes(content.replace(b'"schema_version": 1', b'"schema_version": 9'))
    result = gate_files(tmp_path / "nowhere.json", tmp_path / "baseline.json", THRESHOLDS)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert "the run cannot be used: cannot read" in result.problems[0]
    assert "has schema version 9 but this sadtrt reads version 1" in result.problems[1]


def test_a_run_is_no_baseline_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_run(run_of(measured()), tmp_path / "run" / "records.json")
    (tmp_path / "latest").symlink_to("run")
    os.link(tmp_path / "run" / "records.json", tmp_path / "linked.json")
    shutil.copy(tmp_path / "run" / "records.json", tmp_path / "copied.json")
    for other in ("latest", "run/records.json", "linked.json", "copied.json"):
        result = gate_files(tmp_path / "run", tmp_path / other, THRESHOLDS)
        assert result.exit_code == ExitCode.NOT_COMPARABLE
        assert "the run and the baseline are the same run" in result.problems[0]


def test_latest_is_not_judged_where_a_later_run_did_not_finish(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-gpu-a", "20260102T000000Z-gpu-b"):
        (tmp_path / name).mkdir()
        write_run(run_of(measured(latency=latency(seed=9))), tmp_path / name / "records.json")
    write_run(run_of(measured()), tmp_path / "baseline.json")
    (tmp_path / "latest").symlink_to("20260101T000000Z-gpu-a")
    result = gate_files(tmp_path / "latest", tmp_path / "baseline.json", THRESHOLDS)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert "20260102T000000Z-gpu-b began after" in result.problems[0]
    assert gate_files(tmp_path / "latest" / "records.json", tmp_path / "baseline.json", THRESHOLDS) == result
    named = gate_files(tmp_path / "20260101T000000Z-gpu-a", tmp_path / "baseline.json", THRESHOLDS)
    assert named.exit_code == ExitCode.PASS
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("20260102T000000Z-gpu-b")
    assert gate_files(tmp_path / "latest", tmp_path / "baseline.json", THRESHOLDS).exit_code == ExitCode.PASS


# What a run was measured under


def at_clock(mhz: float, seed: int) -> Record:
    spread = (mhz - 100, mhz - 10, mhz)
    return measured(latency=latency(seed=seed), telemetry=Telemetry(spread, None, None, None))


def test_times_at_another_clock_do_not_compare() -> None:
    row, code = judge(at_clock(1000, 1), at_clock(1980, 2))
    assert (row.verdict, row.reason, code) == ("not comparable", "sm_clock_differs", ExitCode.NOT_COMPARABLE)
    assert "reached 1980 MHz in the baseline, 1000 MHz now" in row.detail
    assert judge(at_clock(1950, 1), at_clock(1980, 2))[1] == ExitCode.PASS


def test_host_times_of_another_host_are_not_judged() -> None:
    new = run_of(measured(latency=latency(5.0, 9.0, seed=1)))
    other = dataclasses.replace(new, environment=dataclasses.replace(new.environment, cpu_count=4))
    baseline = run_of(measured(latency=latency(5.0, 5.5, seed=2)))
    result = compare_runs(other, baseline, THRESHOLDS)
    assert result.exit_code == ExitCode.PASS
    assert "the processors changed from" in result.rows[0].detail
    assert compare_runs(new, baseline, THRESHOLDS).exit_code == ExitCode.REGRESSION


@pytest.mark.parametrize(
    ("was", "now", "compares"),
    [
        ({"flush_l2": "False"}, {"flush_l2": "True"}, False),
        ({}, {"flush_l2": "False"}, True),
        ({}, {"CUDA_LAUNCH_BLOCKING": "1"}, False),
        ({}, {"NVIDIA_TF32_OVERRIDE": "1"}, False),
        ({"NVIDIA_TF32_OVERRIDE": "0"}, {}, False),
        ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, {}, False),
        ({"threads": "2"}, {"threads": "8"}, False),
        ({}, {"threads": "8"}, True),
        ({"weights": "auto"}, {"weights": "demo"}, True),
    ],
)
def test_options_that_change_what_a_time_means(was: dict[str, str], now: dict[str, str], compares: bool) -> None:
    old = dataclasses.replace(run_of(measured()), options=was)
    new = dataclasses.replace(run_of(measured(latency=latency(seed=9))), options=now)
    result = compare_runs(new, old, THRESHOLDS)
    assert (result.exit_code == ExitCode.PASS) is compares
    assert compares or "option" in result.problems[0]
    assert compares or "changed:" in result.problems[0]


def test_another_power_limit_or_memory_clock_does_not_compare() -> None:
    def made(seed: int, watts: float | None, memory_mhz: float) -> Run:
        seen = Telemetry((1980.0,) * 3, (memory_mhz,) * 3, None, None)
        stretch = None if watts is None else Sustained(100, 0.5, power_w=300.0, power_limit_w=watts)
        return run_of(measured(latency=latency(seed=seed), telemetry=seen, sustained=stretch))

    usual = made(1, 700.0, 2619.0)
    assert compare_runs(made(2, 690.0, 2619.0), usual, THRESHOLDS).exit_code == ExitCode.PASS
    assert compare_runs(made(2, None, 2619.0), usual, THRESHOLDS).exit_code == ExitCode.PASS
    lower = compare_runs(made(2, 400.0, 2619.0), usual, THRESHOLDS)
    assert lower.exit_code == ExitCode.NOT_COMPARABLE
    assert lower.problems == ("the board's power limit changed: 700 W in the baseline, 400 W in this run",)
    slower = compare_runs(made(2, 700.0, 1593.0), usual, THRESHOLDS)
    assert slower.exit_code == ExitCode.NOT_COMPARABLE
    assert "the memory clock reached 2619 MHz in the baseline, 1593 MHz now" in slower.rows[0].detail


@pytest.mark.parametrize(("name", "was", "now"), [("benchmark_version", 5, 4), ("calibration", "a", "b")])
def test_a_further_run_that_measured_something_else_judges_nothing(name: str, was: object, now: object) -> None:
    """It would widen the limit by what the measure changed, and a slowdown would pass for noise."""
    baseline = run_of(measured(**{name: was}))
    candidate = run_of(measured(latency=latency(5.9, 6.4, seed=9), **{name: was}))
    others = [run_of(measured(latency=latency(ms, seed=int(10 * ms)), **{name: now})) for ms in (4.0, 5.0, 6.0, 7.0)]
    assert compare_runs(candidate, baseline, THRESHOLDS).exit_code == ExitCode.REGRESSION
    result = compare_runs(candidate, baseline, THRESHOLDS, others)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert (
        f"a further run of the baseline: generator/tensorrt/fp16/native/batch 1 is of {name.replace('_', ' ')} {now}"
        in (result.problems[0])
    )


def test_a_further_run_without_device_times_judges_nothing() -> None:
    others = [run_of(measured(latency=latency(None, ms, seed=int(10 * ms)))) for ms in (4.0, 5.0, 6.0, 7.0)]
    result = compare_runs(run_of(measured(latency=latency(seed=9))), run_of(measured()), THRESHOLDS, others)
    assert result.exit_code == ExitCode.NOT_COMPARABLE
    assert "has device times in some runs of the baseline only" in result.problems[0]


@pytest.mark.parametrize("status", ["skipped", "failed"])
def test_a_row_that_a_further_run_did_not_measure_is_left_out_of_its_noise(status: Status) -> None:
    old, new = (measured(latency=latency(seed=seed), calibration="a" * 16) for seed in (0, 9))
    unmeasured, decode = Record(key(), status, reason="out of memory"), measured(key("decode"))
    for baseline, other in ((old, unmeasured), (unmeasured, old)):
        others = [run_of(other, measured(key("decode"), latency=latency(seed=seed))) for seed in (4, 5, 6, 7)]
        result = compare_runs(run_of(new, decode), run_of(baseline, decode), THRESHOLDS, others)
        assert (result.exit_code, result.problems) == (ExitCode.PASS, ())


def test_what_was_ignored_is_said() -> None:
    new, old = run_of(measured(latency=latency(seed=9))), run_of(measured())
    idle = Thresholds(overrides=(Override(None, None, "fp61", {"slowdown_percent": 5.0}),))
    assert any("for precision fp61, and there is no such row" in text for text in compare_runs(new, old, idle).remarks)
    earlier = dataclasses.replace(new, started_utc="2024-12-31T12:00:00Z")
    assert any("older than its baseline" in text for text in compare_runs(earlier, old, THRESHOLDS).remarks)


def test_a_row_that_failed_in_both_runs_does_not_pass() -> None:
    broken = Record(key("decode"), "failed", reason="RuntimeError: out of memory")
    result = compare_runs(run_of(measured(latency=latency(seed=9)), broken), run_of(measured(), broken), THRESHOLDS)
    assert result.exit_code == ExitCode.ROWS_MISSING


def test_a_baseline_is_written_whole_and_found_again(tmp_path: Path) -> None:
    run = run_of(measured())
    write_baseline(run, tmp_path / "baselines" / "h200-trt8.6")
    write_baseline(run, tmp_path / "baselines" / "single.json")
    folder = find_baseline(tmp_path, "h200-trt8.6")
    assert sorted(path.name for path in folder.iterdir()) == ["environment.json", "records.json", "summary.csv"]
    assert read_run(folder) == read_run(find_baseline(tmp_path, "single")) == run
    assert find_baseline(tmp_path, str(folder)) == folder
    with pytest.raises(UserError, match=r"no baseline 'other' in .*; there are h200-trt8\.6, single"):
        find_baseline(tmp_path, "other")
    with pytest.raises(UserError, match="there are none yet"):
        find_baseline(tmp_path / "empty", "other")


def test_a_run_that_could_not_serve_is_no_baseline(tmp_path: Path) -> None:
    for run, words in ((run_of(measured(), complete=False), "interrupted"), (run_of(SKIPPED), "measured nothing")):
        with pytest.raises(UserError, match=words):
            write_baseline(run, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_metric_that_is_registered_is_judged_by_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    slowest = Metric(
        "slowest_ms",
        "latency",
        lambda record, run: None if record.latency is None else max(record.latency.judged_ms),
        better="lower",
        limit=Limit("slowest_growth_percent", 50.0, "slowest", "slower", percent=True),
    )
    monkeypatch.setitem(METRICS, "slowest_ms", slowest)
    usual = latency()
    spiked = dataclasses.replace(usual, host_ms=(*usual.host_ms[:-1], 9 * max(usual.host_ms)))
    if usual.device_ms is not None:
        spiked = dataclasses.replace(spiked, device_ms=(*usual.device_ms[:-1], 9 * max(usual.device_ms)))
    row, code = judge(measured(latency=spiked), measured(latency=usual), Thresholds())
    found = row.finding("slowest_ms")
    assert found is not None
    assert (found.verdict, found.reason, found.limit, code) == ("slower", "slowest", 50.0, ExitCode.REGRESSION)
    loose = Thresholds.from_table({"slowest_growth_percent": 1000.0})
    assert judge(measured(latency=spiked), measured(latency=usual), loose)[1] == ExitCode.PASS
