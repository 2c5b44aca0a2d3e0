"""The two-states experiment without a GPU: its arithmetic, what it concludes, what it asks of driver and NVML."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), str(Path(__file__).parent), *sys.path])


def in_two_states(count: int = 200, gap: float = 0.03, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Times that stay fast or slow for stretches of 20, and which are slow."""
    slow = [index // 20 % 3 == 1 for index in range(count)]
    noise = np.random.default_rng(seed).normal(1, 0.002, count)
    return [4.75 * (1 + gap * is_slow) * factor for is_slow, factor in zip(slow, noise, strict=True)], slow


def test_two_states_are_found_with_their_levels_and_one_is_not_cut_in_two():
    from state_statistics import two_states

    times, slow = in_two_states()
    states = two_states(times)
    assert states.are_two
    assert (states.fast_ms, states.gap_percent) == (pytest.approx(4.75, rel=0.001), pytest.approx(3, abs=0.1))
    assert [time > states.threshold_ms for time in times] == slow
    assert states.sentence().startswith("two states: 4.7")
    for one in (np.random.default_rng(1).normal(4.8, 0.1, 500), np.random.default_rng(2).uniform(4.7, 5, 500)):
        assert not two_states(one.tolist()).are_two
    assert "no two states were seen" in two_states([4.75, 4.751, 4.752, 4.753]).sentence()


def test_a_stray_time_is_no_state():
    from state_statistics import two_states

    times, slow = in_two_states()
    assert two_states([*times, 80.0]).share_slow == pytest.approx((sum(slow) + 1) / 201)
    assert not two_states([*np.random.default_rng(0).normal(4.8, 0.01, 100), 80.0]).are_two
    with pytest.raises(ValueError, match="at least two times but there are 1"):
        two_states([1.0])
    with pytest.raises(ValueError, match="nothing to part"):
        two_states([1.0] * 10)


def test_what_follows_the_states_is_told_from_what_does_not():
    from state_statistics import telling, telling_line, two_states

    times, slow = in_two_states()
    random = np.random.default_rng(3)
    quantities = {
        "noise": random.normal(600, 10, 200).tolist(),
        "clock": (1.98 - 0.06 * np.array(slow) + 0.001 * random.normal(size=200)).tolist(),
        "constant": [1980.0] * 200,
        "absent": [None] * 200,
        "at times": [None if index % 2 else float(slow[index]) for index in range(200)],
    }
    told = {answer["quantity"]: answer for answer in telling(times, two_states(times), quantities)}
    assert list(told)[:3] in (["clock", "at times", "noise"], ["at times", "clock", "noise"])
    assert told["clock"]["auc"] == 0.0
    assert told["clock"]["rho"] < -0.6, "times within a state have an order of their own"
    assert abs(told["noise"]["auc"] - 0.5) < 0.15
    assert told["at times"]["known"] == 100
    assert telling_line(told["clock"]).endswith("(-3.03%) <- tells the states apart")
    assert "<-" not in telling_line(told["noise"])
    assert telling_line(told["constant"]).endswith("never moved: 1980")
    assert telling_line(told["absent"]).endswith("not told by this GPU")


def burst(pause: str, pause_s: float, slow: list[bool], held_ms: float | None = 0.0) -> dict:
    rounds = [
        {
            "median_ms": 4.9 + 0.001 * index if is_slow else 4.75 + 0.001 * index,
            "quantities": {"into_burst_s": 0.1 * index, "sm_ghz_during": 1.92 if is_slow else 1.98, "power_w": 600.0},
        }
        for index, is_slow in enumerate(slow)
    ]
    return {"pause": pause, "pause_s": pause_s, "rounds": rounds, "held_back_ms": {"power": held_ms}}


def test_bursts_that_are_slow_after_an_idle_pause_are_said_to_be_so():
    from gpu_states import judge, report

    bursts = [
        burst("idle", 0.0, [False] * 10),
        burst("idle", 3.0, [True] * 5 + [False] * 5, 80.0),
        burst("spin", 3.0, [False] * 10),
        burst("idle", 3.0, [True] * 10, 90.0),
        burst("idle", 0.0, [False] * 10),
    ]
    found = judge(bursts)
    assert found["states"]["are_two"]
    assert found["telling"][0]["quantity"] == "sm_ghz_during"
    assert found["idle_correlation"] > 0.8
    assert found["switches_within_bursts"] == 1
    assert found["longest_stay_s"] == {"fast": 0.9, "slow": 0.9}
    after_idle = next(item for item in found["pauses"] if (item["pause"], item["pause_s"]) == ("idle", 3.0))
    assert (after_idle["bursts"], after_idle["slow_first"], after_idle["slow_all"]) == (2, 1.0, 0.75)
    assert found["held_back"][0]["auc"] == 1.0
    text = report(found)
    assert "two states: 4.7" in text
    assert "idle    3 s: 1.00, 0.75 (2 bursts)" in text
    assert "1 switches within bursts" in text


def test_a_gpu_without_the_counters_of_limits_is_judged_all_the_same():
    from gpu_states import judge, report

    bursts = [burst(kind, 1.0, [slow] * 8, held_ms=None) for kind, slow in (("idle", True), ("spin", False))]
    found = judge(bursts)
    assert found["idle_correlation"] is None
    assert "not told by this GPU" in report(found)


class Sensors:
    """NVML that sees the clock it asked for, whatever the SMs do."""

    reads = 0

    def read(self):
        self.reads += 1
        return {"sm_clock_mhz": 1980.0, "memory_temperature_c": None}

    def violations_ms(self):
        return {"power": 10.0 * self.reads, "thermal": None}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A simulated GPU that copies in 0.5 us and multiplies in 1 us."""
    import gpu_probes
    from simulated_gpu import SimulatedGpu

    simulated = SimulatedGpu(monkeypatch)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: simulated.work(500))
    monkeypatch.setattr(torch, "mm", lambda left, right, out: simulated.work(1_000))
    for name, value in {"COPY_BYTES": 1024, "L2_BYTES": 1024, "FAR_BYTES": 4096, "MATMUL_SIZE": 8}.items():
        monkeypatch.setattr(gpu_probes, name, value)
    return simulated


def row_of(gpu, milliseconds):
    """A runner on the simulated GPU; `milliseconds` gives the time of its next call."""
    job = SimpleNamespace(device=torch.device("cpu"))

    def execute() -> None:
        gpu.work(round(1e6 * milliseconds()))

    return SimpleNamespace(job=job, stream=gpu.stream, synchronize=gpu.stream.synchronize, execute=execute)


def test_a_round_tells_the_clock_of_the_sms_and_the_times_of_the_samples(gpu):
    from gpu_probes import Prober

    gpu.ghz, gpu.kernel_ns = 1.92, 1_000
    prober = Prober(row_of(gpu, lambda: 4.75), gpu.stream)
    looks = []
    taken = prober.round(lambda: looks.append(gpu.idle))
    assert looks == [False], "NVML is asked while the GPU works"
    assert taken.samples_ms == pytest.approx((4.751,) * 10)
    probes = taken.probes
    assert probes["bare_row_ms"] == pytest.approx(4.751)
    for name in ("sm_ghz_before", "sm_ghz_during", "sm_ghz_during_slowest_sm", "sm_ghz_after"):
        assert probes[name] == pytest.approx(1.92, rel=1e-4), name
    assert probes["row_ms_by_globaltimer"] == pytest.approx(4.752)
    assert probes["row_million_cycles"] == pytest.approx(4.752 * 1.92, rel=1e-4)
    assert probes["copy_gb_per_s"] == pytest.approx(2 * 1024 / 1_500)
    assert probes["matmul_tflops"] == pytest.approx(2 * 8**3 / 2_000 / 1e3)
    assert probes["empty_kernel_us"] == pytest.approx(201_000 / 200 / 1e3)
    assert (probes["l2_load_ns"], probes["memory_load_ns"]) == (200, 200)
    assert probes["l2_load_cycles"] == pytest.approx(384)


def test_a_clock_that_drops_unseen_by_nvml_is_found_from_end_to_end(gpu, monkeypatch: pytest.MonkeyPatch):
    import gpu_states

    calls = iter(range(10**9))

    def milliseconds() -> float:
        # The clock changes every four rounds of 15 calls; whatever it is, a call takes as many cycles.
        slow = next(calls) // 60 % 2 == 1
        gpu.ghz = 1.92 if slow else 1.98
        return 4.75 * 1.98 / gpu.ghz

    monkeypatch.setattr(gpu_states.time, "perf_counter", lambda: gpu.now / 1e9)
    monkeypatch.setattr(gpu_states.time, "sleep", lambda seconds: gpu.work(round(1e9 * seconds)))
    monkeypatch.setattr(gpu_states, "PAUSES", (("idle", 0.25), ("spin", 0.25)))
    sensors = Sensors()
    bursts = list(gpu_states.measure_bursts(row_of(gpu, milliseconds), gpu.stream, sensors, 8.0))
    assert [len(bursts), *sorted({burst["pause"] for burst in bursts})] == [4, "idle", "spin"]
    assert 20 <= sensors.reads <= 32, "once every 0.2 s of the bursts"
    assert "ms; sm_ghz_during" in gpu_states.burst_line(bursts[0])
    found = gpu_states.judge(bursts)
    assert found["states"]["gap_percent"] == pytest.approx(3.125, abs=0.05)
    told = {answer["quantity"]: answer for answer in found["telling"]}
    assert told["sm_ghz_after"]["auc"] == 0.0
    assert told["bare_row_ms"]["auc"] == 1.0
    assert told["row_million_cycles"]["fast"] == pytest.approx(told["row_million_cycles"]["slow"], rel=1e-4)
    assert told["sm_clock_mhz"]["rho"] is None
    assert "memory_temperature_c         not told by this GPU" in gpu_states.report(found)


def test_every_pause_comes_once_before_any_comes_again():
    from gpu_states import PAUSES, pauses

    first, second = (list(islice(pauses(), start, start + len(PAUSES))) for start in (0, len(PAUSES)))
    assert Counter(first) == Counter(second) == Counter(PAUSES)
    assert first != second


def test_clocks_come_out_of_stamps_as_large_as_nanoseconds_since_1970():
    from probe_kernels import SM_SLOTS, chase_ns, clock_between, ticks_ghz

    now = 1_790_000_000_123_456_789
    answers = np.array([[now, now + 32, 7_000, now + 50_032, 7_000 + 99_000]])
    assert ticks_ghz(answers).tolist() == [1.98]
    before, after = np.zeros((2, SM_SLOTS, 2), dtype=np.int64)
    before[:3], after[:3] = (now, 5_000), (now + 4_000_000, 5_000 + 7_920_000)
    after[2, 1] -= 4_000_000 * 0.18
    after[200] = (now, 1)  # An SM that only one of the two stamps ran on.
    assert clock_between(before, after) == pytest.approx((4.0, 1.98, 1.8))
    assert clock_between(before, np.zeros_like(after)) is None
    assert chase_ns(np.array([now, 100, now + 200_000, 396_100, 64]), 1_000) == (200.0, 396.0)


def test_a_chain_passes_every_line_once_and_comes_back():
    from probe_kernels import chain

    table = chain(64 * 128)
    seen, index = [], 0
    for _ in range(64):
        seen.append(index)
        index = int(table[index])
    assert index == 0
    assert sorted(seen) == list(range(0, 64 * 32, 32))
    assert seen != sorted(seen)


class Driver:
    """libcuda as far as the probes ask it; `launched` holds name, blocks, parameters and the stream's handle."""

    def __init__(self) -> None:
        self.names, self.launched = [], []

    def cuModuleLoadData(self, module, image):
        assert b".entry stamp" in image.value
        return 0

    def cuModuleGetFunction(self, function, module, name):
        self.names.append(name.value.decode())
        function._obj.value = len(self.names)
        return 0

    def cuLaunchKernel(self, function, blocks, *rest):
        *ones, shared, stream, parameters, extra = rest
        assert ([one.value for one in ones], shared.value, extra) == ([1] * 5, 0, None)
        values = [ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint64)).contents.value for pointer in parameters]
        self.launched.append((self.names[function.value - 1], blocks.value, values, stream.value))
        return 0


def test_probes_are_launched_with_their_parameters(monkeypatch: pytest.MonkeyPatch):
    from probe_kernels import ProbeKernels

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    driver, stream = Driver(), SimpleNamespace(cuda_stream=0x77)
    kernels, answer, table = ProbeKernels(driver), torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int32)
    kernels.ticks(stream, answer, 50_000)
    kernels.stamp(stream, answer, 132)
    kernels.chase(stream, answer, table, 300)
    kernels.empty(stream)
    assert driver.launched == [
        ("ticks", 1, [answer.data_ptr(), 50_000], 0x77),
        ("stamp", 132, [answer.data_ptr()], 0x77),
        ("chase", 1, [answer.data_ptr(), table.data_ptr(), 300], 0x77),
        ("empty", 1, [], 0x77),
    ]


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas of the CUDA toolkit is not on the PATH")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_the_assembler_takes_the_probes(tmp_path, architecture):
    from probe_kernels import PTX

    (tmp_path / "probes.ptx").write_bytes(PTX.rstrip(b"\0"))
    command = ["ptxas", f"-arch={architecture}", "-o", str(tmp_path / "probes.cubin"), str(tmp_path / "probes.ptx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_sensors_tell_what_there_is_and_none_for_what_is_not():
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install nvidia-ml-py")
    from state_sensors import StateSensors

    class Nvml:
        """An H200 whose driver counts one limit by the older call, another by a field, and has no video clock."""

        def __getattr__(self, name):
            if name.startswith("nvml"):
                raise AttributeError(name)  # Bindings that do not know the call.
            return getattr(pynvml, name)

        def nvmlDeviceGetClockInfo(self, handle, kind):
            if kind == pynvml.NVML_CLOCK_VIDEO:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201, pynvml.NVML_CLOCK_GRAPHICS: 1980}[kind]

        def nvmlDeviceGetFieldValues(self, handle, fields):
            known = {
                pynvml.NVML_FI_DEV_POWER_INSTANT: (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal", 587_500),
                pynvml.NVML_FI_DEV_MEMORY_TEMP: (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal", 61),
                pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL: (
                    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
                    "ullVal",
                    5_000_000_000,
                ),
            }
            answer = pynvml.c_nvmlFieldValue_t()
            answer.nvmlReturn = pynvml.NVML_SUCCESS if fields[0] in known else pynvml.NVML_ERROR_NOT_SUPPORTED
            if fields[0] in known:
                answer.valueType, member, value = known[fields[0]]
                setattr(answer.value, member, value)
            return [answer]

        def nvmlDeviceGetViolationStatus(self, handle, policy):
            if policy != pynvml.NVML_PERF_POLICY_POWER:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return SimpleNamespace(referenceTime=1, violationTime=2_500_000)

    sensors = StateSensors(Nvml(), None)
    seen = sensors.read()
    assert (seen["sm_clock_mhz"], seen["memory_clock_mhz"], seen["video_clock_mhz"]) == (1980, 3201, None)
    assert (seen["power_w"], seen["memory_temperature_c"]) == (587.5, 61.0)
    assert (seen["gpu_temperature_c"], seen["pcie_generation"]) == (None, None)
    held = sensors.violations_ms()
    assert (held["power"], held["thermal"], held["reliability"]) == (2.5, 5000.0, None)


@pytest.mark.parametrize("experiment", ["gpu_states", "launch_latency"])
def test_without_a_gpu_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path, experiment):
    module = __import__(experiment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [experiment, "--out", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit, match=r"^this needs a GPU: PyTorch sees none$"):
        module.main()
    assert not (tmp_path / "out.json").exists()
