"""What other processes took of the processors, from counters that a test moves and from this machine's own."""

from __future__ import annotations

import os

import pytest

from sadtrt_core.measure import host_load
from sadtrt_core.measure.host_load import HostLoad, read_processor_times, read_waiting_times, time_reference_loop


def load(monkeypatch, *readings):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    given = list(readings)
    with HostLoad(lambda: given.pop(0)) as host:
        pass
    return host.others_percent


def test_the_share_of_all_processors_without_this_process(monkeypatch):
    # Two seconds on four processors, 5 of 8 seconds busy, 3 of them by this process.
    assert load(monkeypatch, (10.0, 100.0, 7.0), (12.0, 105.0, 10.0)) == pytest.approx(25.0)


def test_counters_that_disagree_by_a_tick_stay_within_bounds(monkeypatch):
    assert load(monkeypatch, (0.0, 100.0, 7.0), (1.0, 100.99, 8.0)) == 0.0
    assert load(monkeypatch, (0.0, 100.0, 7.0), (1.0, 104.02, 7.0)) == 100.0


def test_a_short_block_is_watched_a_little_longer(monkeypatch):
    slept = []
    monkeypatch.setattr(host_load.time, "sleep", slept.append)
    assert load(monkeypatch, (0.0, 0.0, 0.0), (0.05, 9.0, 9.0), (0.2, 0.4, 0.0)) == pytest.approx(50.0)
    assert slept == [pytest.approx(0.15)]


def test_where_nothing_is_counted_nothing_is_said(monkeypatch):
    assert load(monkeypatch, None) is None


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="processor times are read from Linux's /proc/stat")
def test_this_machine_counts():
    first, second = read_processor_times(), read_processor_times()
    assert all(new >= old for new, old in zip(second, first, strict=True))
    assert first[1] > first[2]


def waited(monkeypatch, before, after, seconds=2.0):
    ticks = iter((10.0, 10.0 + seconds))
    monkeypatch.setattr(host_load.time, "perf_counter", lambda: next(ticks))
    given = [before, after]
    with HostLoad(lambda: None, lambda: given.pop(0)) as host:
        pass
    return host.waited_percent


def test_the_thread_that_waited_longest_counts(monkeypatch):
    assert waited(monkeypatch, {"1": 5.0, "2": 0.0}, {"1": 5.2, "2": 0.6, "3": 0.1}) == pytest.approx(30.0)
    assert waited(monkeypatch, {"1": 1.0}, {"1": 1.0}) == 0.0
    assert waited(monkeypatch, {"1": 0.0}, {"1": 9.0}) == 100.0
    assert waited(monkeypatch, None, None) is None


def test_the_reference_loop_is_the_slower_of_before_and_after(monkeypatch):
    times = [0.30, 0.42]
    monkeypatch.setattr(host_load, "time_reference_loop", lambda: times.pop(0))
    with HostLoad(lambda: None, lambda: None, reference_loop=True) as host:
        pass
    assert (host.yardstick_ms, times) == (0.42, [])
    with HostLoad(lambda: None, lambda: None) as host:
        pass
    assert host.yardstick_ms is None
    monkeypatch.undo()
    assert time_reference_loop() > 0


def test_of_several_visits_the_worst_is_kept():
    given = [(0.0, 0.0, 0.0), (1.0, 0.8, 0.2), (2.0, 0.8, 0.2), (3.0, 0.8, 0.2)]
    host = HostLoad(lambda: given.pop(0), lambda: None)
    with host:
        pass
    busy = host.others_percent
    with host:
        pass
    assert given == []
    assert host.others_percent == busy > 0


def test_what_was_seen_before_an_error_is_not_reported():
    with pytest.raises(RuntimeError), HostLoad(lambda: (0.0, 0.0, 0.0), lambda: {"1": 0.0}) as host:
        raise RuntimeError
    assert (host.others_percent, host.waited_percent) == (None, None)


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="waiting is read from Linux's schedstat")
def test_this_machine_counts_waiting():
    first, second = read_waiting_times(), read_waiting_times()
    assert str(os.getpid()) in first
    assert second[str(os.getpid())] >= first[str(os.getpid())]
