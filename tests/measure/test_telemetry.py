"""Telemetry from sensors that a test moves: which samples a clock drop or a throttle reason marks, and absence."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.resources import sustain
from sadtrt_core.measure.sensors import NvmlSensors, Reading, find_sensors, nvml_handle, reason_names
from sadtrt_core.measure.telemetry import TelemetrySampler

STEADY = Reading(1980.0, 3201.0, 45.0, 400.0, 5000.0, frozenset({"application clocks"}))
DROPPED = Reading(1500.0, 3201.0, 85.0, 690.0, 5000.0)
CAPPED = Reading(1950.0, 3201.0, 60.0, 700.0, 5200.0, frozenset({"software power cap"}))


class Script:
    """Sensors that give the readings of a list, one a look."""

    def __init__(self, readings):
        self.readings = list(readings)

    def read(self):
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def energy_mj(self):
        return None


def watched(readings):
    """A sampler that looked at 0, 10, 20 ... ms and saw `readings`."""
    ticks = iter(0.01 * i for i in range(1000) for _ in range(2))
    sampler = TelemetrySampler(Script(readings), clock=lambda: next(ticks))
    for _ in readings:
        sampler.look()
    return sampler


#: Twenty samples of 4 ms, one every 5 ms.
WINDOWS = [(0.005 * i, 0.005 * i + 0.004) for i in range(20)]


@pytest.mark.parametrize("bad", [DROPPED, CAPPED])
def test_samples_around_a_clock_drop_or_a_throttle_reason_are_marked(bad):
    sampler = watched([STEADY] * 5 + [bad] + [STEADY] * 5)
    # Bad at 50 ms, known good at 40 and 60: what ran in between, ends included, may have been slow.
    assert sampler.disturbed(WINDOWS) == (8, 9, 10, 11, 12)


def test_a_drop_in_the_middle_of_one_long_sample_marks_it():
    sampler = watched([STEADY] * 5 + [DROPPED] + [STEADY] * 5)
    assert sampler.disturbed([(0.0, 0.02), (0.03, 0.09), (0.091, 0.1)]) == (1,)


def test_small_changes_and_application_clocks_disturb_nothing():
    wobble = [Reading(clock, reasons=STEADY.reasons) for clock in (1980.0, 1965.0, 1890.0, 1980.0)]
    assert watched(wobble).disturbed(WINDOWS) == ()


def test_a_clock_that_is_down_for_most_of_the_time_still_shows():
    sampler = watched([STEADY] * 3 + [DROPPED] * 8)
    assert sampler.steady_clock_mhz() == 1980.0
    assert len(sampler.disturbed(WINDOWS)) == 16


def test_a_power_cap_that_is_always_there_is_the_state_of_the_row_and_no_disturbance():
    sampler = watched([STEADY] * 2 + [CAPPED] * 9)
    assert sampler.disturbed(WINDOWS) == ()
    assert sampler.telemetry(WINDOWS).throttle_reasons == ("software power cap",)


def test_a_clock_drop_shows_under_a_power_cap_that_is_always_there():
    deeper = Reading(1700.0, reasons=CAPPED.reasons)
    assert watched([CAPPED] * 5 + [deeper] + [CAPPED] * 5).disturbed(WINDOWS) == (8, 9, 10, 11, 12)


@pytest.mark.parametrize("reason", ["hardware thermal slowdown", "hardware slowdown", "hardware power brake"])
def test_heat_and_a_failing_supply_disturb_however_long_they_last(reason):
    hot = Reading(1980.0, reasons=frozenset({reason}))
    assert watched([hot] * 11).disturbed(WINDOWS) == tuple(range(20))


def test_what_was_seen_during_the_samples_is_summed_up():
    idle = Reading(345.0, 100.0, 30.0, 70.0, 400.0, frozenset({"idle"}))
    telemetry = watched([idle] * 3 + [STEADY, CAPPED, STEADY] + [idle] * 3).telemetry([(0.025, 0.05)])
    assert telemetry.sm_clock_mhz == (1950.0, 1980.0, 1980.0)
    assert telemetry.power_w == (400.0, 400.0, 700.0)
    assert telemetry.memory_used_mb == (5000.0, 5000.0, 5200.0)
    assert telemetry.throttle_reasons == ("software power cap",)


def test_figures_that_a_gpu_does_not_tell_are_left_out():
    telemetry = watched([Reading(sm_clock_mhz=1980.0)] * 3).telemetry()
    assert telemetry.sm_clock_mhz == (1980.0, 1980.0, 1980.0)
    assert (telemetry.power_w, telemetry.temperature_c, telemetry.memory_used_mb) == (None, None, None)


def test_the_thread_reads_until_the_end_of_each_visit_and_stops():
    sampler = TelemetrySampler(Script([STEADY]), period_s=0.001)
    count = 0
    for _ in range(2):
        with sampler:
            deadline = time.monotonic() + 30
            while len(sampler.readings) < count + 5 and time.monotonic() < deadline:
                time.sleep(0.001)
        assert len(sampler.readings) >= count + 6
        count = len(sampler.readings)
        time.sleep(0.01)
        assert len(sampler.readings) == count


def test_sensors_that_break_in_the_middle_are_not_passed_over():
    class Breaking(Script):
        def read(self):
            if not self.readings:
                raise RuntimeError("GPU is lost")
            return self.readings.pop()

    sampler = TelemetrySampler(Breaking([STEADY]), period_s=0.001)
    with pytest.raises(RuntimeError, match="GPU is lost"), sampler:
        sampler._thread.join(30)


def test_without_sensors_there_is_no_telemetry_and_a_reason():
    with TelemetrySampler(find_sensors(torch.device("cpu"))) as sampler:
        pass
    assert sampler.telemetry(WINDOWS) is None
    assert sampler.disturbed(WINDOWS) == ()
    assert "a CPU has no NVML" in sampler.absence


class NvmlError(Exception):
    pass


class FakeNvml:
    """The part of nvidia-ml-py that is used, for one GPU; what is in `lacking` is not supported."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *lacking, uuids=("GPU-abcd",)):
        self.lacking, self.uuids = lacking, uuids

    def __getattr__(self, name):
        answers = {
            "nvmlDeviceGetPowerUsage": 412_500,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=7_000_000_000),
            "nvmlDeviceGetTemperature": 51,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x6,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x20,
            "nvmlDeviceGetTotalEnergyConsumption": 123_456,
        }
        if name == "nvmlDeviceGetClockInfo":
            answer = lambda handle, kind: {1: 1980, 2: 3201}[kind]  # noqa: E731
        elif name in answers:
            answer = lambda *_: answers[name]  # noqa: E731
        else:
            raise AttributeError(name)

        def call(*arguments):
            if name in self.lacking:
                raise NvmlError("Not Supported")
            return answer(*arguments)

        return call

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.uuids:
            raise NvmlError("Not Found")
        return uuid

    def nvmlDeviceGetHandleByPciBusId(self, address):
        return address


def test_nvml_answers_become_a_reading():
    made = NvmlSensors(FakeNvml(), "gpu")
    assert made.read() == Reading(
        1980, 3201, 51, 412.5, 7000.0, frozenset({"application clocks", "software power cap"}), 700.0
    )
    assert made.energy_mj() == 123_456


def test_what_nvml_does_not_support_reads_as_nothing():
    lacking = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetClockInfo", "nvmlDeviceGetTotalEnergyConsumption")
    made = NvmlSensors(FakeNvml(*lacking, "nvmlDeviceGetCurrentClocksEventReasons"), "gpu")
    reading = made.read()
    assert (reading.sm_clock_mhz, reading.power_w, made.energy_mj()) == (None, None, None)
    assert reading.reasons == {"software thermal slowdown"}, "an older driver answers by the older name"


def test_reasons_have_names_and_unknown_ones_their_number():
    assert reason_names(0) == frozenset()
    assert reason_names(0x1 | 0x80 | 0x1000) == {"idle", "hardware power brake", "reason 0x1000"}


def test_the_gpu_is_found_by_identity_and_not_by_number():
    """CUDA_VISIBLE_DEVICES=3 makes cuda:0 of NVML's fourth GPU."""
    properties = SimpleNamespace(uuid="abcd", pci_domain_id=0, pci_bus_id=0xC1, pci_device_id=0)
    assert nvml_handle(FakeNvml(), properties) == "GPU-abcd"
    assert nvml_handle(FakeNvml(uuids=()), properties) == "00000000:C1:00.0"
    del properties.uuid  # Older PyTorch.
    assert nvml_handle(FakeNvml(), properties) == "00000000:C1:00.0"


def test_an_nvml_that_does_not_answer_is_a_reason(monkeypatch):
    def refuse():
        raise NvmlError("Driver Not Loaded")

    fake = FakeNvml()
    fake.nvmlInit = refuse
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    found = find_sensors(torch.device("cuda"))
    assert isinstance(found, Unavailable)
    assert found.reason == "NVML does not answer: Driver Not Loaded"


class Work:
    """A runner that takes 2 ms and 600 mJ a call, beside sensors whose counter moves every 20 ms."""

    def __init__(self, counts=True, watched=True):
        self.now, self.calls, self.counts, self.watched = 0.0, 0, counts, watched
        self.looked = threading.Event()

    def execute(self):
        self.calls += 1
        self.now += 0.002

    def synchronize(self):
        """Waits until the counter was looked at, as the clock stands still meanwhile."""
        if self.watched:
            self.looked.clear()
            assert self.looked.wait(30)

    def energy_mj(self):
        self.looked.set()
        return self.counted() if self.counts else None

    def counted(self):
        return 1e6 + 300.0 * 1e3 * (self.now // 0.02 * 0.02)

    def read(self):
        return Reading(power_w=300.0)


@pytest.mark.parametrize("counts", [True, False])
def test_energy_of_a_call_by_the_counter_or_by_integrated_power(counts):
    work = Work(counts, watched=counts)
    stretch, energy = sustain(work, work, 0.002, 1, clock=lambda: work.now)
    assert energy == pytest.approx(600.0, rel=0.03)
    assert stretch.ms_per_frame == pytest.approx(2.0)
    _, of_a_frame = sustain(work, work, 0.002, 4, clock=lambda: work.now)
    assert of_a_frame == pytest.approx(150.0, rel=0.03)


def test_a_counter_that_moves_within_long_calls_costs_no_accuracy():
    work = Work()

    def execute():
        for _ in range(5):
            Work.execute(work)
            work.now += 0.007
            work.synchronize()

    work.execute = execute
    _, energy = sustain(work, work, 0.045, 1, clock=lambda: work.now)
    assert energy == pytest.approx(300.0 * 45, rel=0.03)


def test_energy_is_not_made_up_where_a_counter_stands_still_or_is_absent():
    work = Work()
    work.counted = lambda: 5.0
    stretch, energy = sustain(work, work, 0.002, 1, clock=lambda: work.now)
    assert energy is None
    assert stretch.seconds == pytest.approx(3.0, rel=0.01), "a counter that stands still is given up"
    work = Work(watched=False)
    bare, energy = sustain(work, Unavailable("none"), 0.002, 1, clock=lambda: work.now)
    assert (energy, bare.power_w, bare.power_limit_w, bare.sm_clock_mhz) == (None, None, None, None)
    assert bare.frames_per_second == pytest.approx(500.0)


def test_how_the_host_was_is_kept_with_and_without_a_gpu():
    host = SimpleNamespace(others_percent=3.0, waited_percent=0.5, yardstick_ms=0.3)
    for sampler in (TelemetrySampler(Unavailable("none")), watched([STEADY] * 3)):
        seen = sampler.telemetry(WINDOWS, host)
        assert (seen.others_percent, seen.waited_percent, seen.yardstick_ms) == (3.0, 0.5, 0.3)
    unknown = SimpleNamespace(others_percent=None, waited_percent=None, yardstick_ms=None)
    assert TelemetrySampler(Unavailable("none")).telemetry(WINDOWS, unknown) is None


def test_the_device_does_not_idle_while_the_counter_is_read():
    """The driver takes some milliseconds for it, in which calls go on."""
    work = Work(watched=False)
    enough = threading.Event()

    def execute():
        Work.execute(work)
        if work.calls == 200:
            enough.set()

    def slow():
        # The first look is at whether there is a counter at all.
        assert work.calls == 0 or enough.wait(30)
        return work.counted()

    work.execute, work.energy_mj = execute, slow
    stretch, _ = sustain(work, work, 0.002, 1, clock=lambda: work.now)
    assert stretch.frames_per_second == pytest.approx(500.0)


def test_an_error_of_the_counter_is_not_kept_back():
    work = Work()

    def breaks():
        work.looked.set()
        if work.calls:
            raise RuntimeError("GPU is lost")
        return 1.0

    work.energy_mj = breaks
    with pytest.raises(RuntimeError, match="GPU is lost"):
        sustain(work, work, 0.002, 1, clock=lambda: work.now)
