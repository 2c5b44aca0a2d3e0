"""The sensors through the real nvidia-ml-py over a library that answers as an H200 under driver 580 does."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from sadtrt_core.environment import gpu_driver
from sadtrt_core.errors import Unavailable
from sadtrt_core.measure.sensors import NvmlSensors, Reading, find_sensors
from sadtrt_core.measure.telemetry import TelemetrySampler

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: pip install nvidia-ml-py")

UUID = "2f1c5e0a-8d39-4f7b-a1c6-0d9be4f35a77"
NOT_SUPPORTED, NOT_FOUND = 3, 6


class H200:
    """libnvidia-ml for one H200; `lacking` functions answer "not supported", `missing` ones are not exported."""

    def __init__(self, lacking: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> None:
        self.lacking, self.missing, self.reasons, self.instant_return = lacking, missing, 0x4, 0
        self.initialised = 0

    def __getattr__(self, name: str):
        made = type(self).__dict__.get(f"_{name}")
        if made is None or name in self.missing:
            raise AttributeError(name)  # As ctypes says that a library has no such symbol.

        def call(*arguments):
            return NOT_SUPPORTED if name in self.lacking else made(self, *arguments) or 0

        return call

    def _nvmlInitWithFlags(self, flags):
        self.initialised += 1

    def _nvmlShutdown(self):
        self.initialised -= 1

    def _nvmlErrorString(self, code):
        return {NOT_SUPPORTED: b"Not Supported", NOT_FOUND: b"Not Found"}[getattr(code, "value", code)]

    def _nvmlSystemGetDriverVersion(self, buffer, length):
        buffer.value = b"580.159.04"

    def _nvmlDeviceGetHandleByUUID(self, uuid, handle):
        return 0 if uuid.value == f"GPU-{UUID}".encode() else NOT_FOUND

    def _nvmlDeviceGetHandleByPciBusId_v2(self, address, handle):
        return 0 if address.value == b"00000000:05:00.0" else NOT_FOUND

    def _nvmlDeviceGetClockInfo(self, handle, kind, clock):
        clock._obj.value = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 3201}[kind.value]

    def _nvmlDeviceGetTemperature(self, handle, sensor, degrees):
        degrees._obj.value = 47

    def _nvmlDeviceGetPowerUsage(self, handle, milliwatts):
        milliwatts._obj.value = 210_000  # The mean of a second that began before the load.

    def _nvmlDeviceGetEnforcedPowerLimit(self, handle, milliwatts):
        milliwatts._obj.value = 700_000

    def _nvmlDeviceGetFieldValues(self, handle, count, values):
        (value,) = values._obj
        assert value.fieldId == pynvml.NVML_FI_DEV_POWER_INSTANT
        value.nvmlReturn = self.instant_return
        value.value.uiVal = 640_000

    def _nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.total, memory._obj.used = 150_754_820_096, 7_000_000_000

    def _nvmlDeviceGetCurrentClocksEventReasons(self, handle, reasons):
        reasons._obj.value = self.reasons

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, reasons):
        reasons._obj.value = self.reasons

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle, millijoules):
        millijoules._obj.value = 2**33 + 5  # More than 32 bits hold: a month of an H200.


PROPERTIES = SimpleNamespace(uuid=UUID, pci_domain_id=0, pci_bus_id=5, pci_device_id=0)


def found(monkeypatch: pytest.MonkeyPatch, library: H200, properties: SimpleNamespace = PROPERTIES):
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return find_sensors(torch.device("cuda"))


def test_every_query_is_answered_and_in_the_units_of_a_reading(monkeypatch):
    sensors = found(monkeypatch, H200())
    assert isinstance(sensors, NvmlSensors)
    assert sensors.read() == Reading(1980, 3201, 47, 640.0, 7000.0, frozenset({"software power cap"}), 700.0)
    assert sensors.energy_mj() == 2**33 + 5


@pytest.mark.parametrize("lacking", ["nvmlDeviceGetFieldValues", "its answer"])
def test_power_is_the_mean_of_a_second_where_no_other_is_told(monkeypatch, lacking):
    library = H200((lacking,))
    library.instant_return = NOT_SUPPORTED if lacking == "its answer" else 0
    assert found(monkeypatch, library).read().power_w == 210.0


def test_what_is_not_supported_or_not_exported_reads_as_nothing(monkeypatch):
    absent = ("nvmlDeviceGetTemperature", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMemoryInfo")
    for library in (H200(lacking=absent), H200(missing=absent)):
        sensors = found(monkeypatch, library)
        assert sensors.read() == Reading(1980, 3201, None, 640.0, None, frozenset({"software power cap"}), 700.0)
        assert sensors.energy_mj() is None


def test_a_library_without_the_newer_name_is_asked_by_the_older(monkeypatch):
    sensors = found(monkeypatch, H200(missing=("nvmlDeviceGetCurrentClocksEventReasons",)))
    assert sensors.read().reasons == {"software power cap"}


def test_the_gpu_is_found_by_its_address_where_no_uuid_fits(monkeypatch):
    slice_of_it = SimpleNamespace(**{**vars(PROPERTIES), "uuid": "11111111-0000-0000-0000-000000000000"})
    assert isinstance(found(monkeypatch, H200(), slice_of_it), NvmlSensors)
    elsewhere = SimpleNamespace(**{**vars(slice_of_it), "pci_bus_id": 9})
    absent = found(monkeypatch, H200(), elsewhere)
    assert isinstance(absent, Unavailable)
    assert absent.reason == "NVML does not answer: Not Found"


def test_reading_the_driver_leaves_nvml_to_those_who_use_it(monkeypatch):
    library = H200()
    sensors = found(monkeypatch, library)
    assert gpu_driver() == "580.159.04"
    assert library.initialised == 1
    assert sensors.read().sm_clock_mhz == 1980


def test_a_row_at_its_power_limit_all_along_is_measured_and_says_so(monkeypatch):
    """As an H200 under a heavy load: the power cap is always on and the clocks are steady."""
    with TelemetrySampler(found(monkeypatch, H200()), period_s=0.001) as sampler:
        while len(sampler.readings) < 5:
            time.sleep(0.001)
    windows = [(begin, end) for begin, end, _ in sampler.readings]
    assert sampler.disturbed(windows) == ()
    seen = sampler.telemetry(windows)
    assert seen.throttle_reasons == ("software power cap",)
    assert seen.power_w == (640.0, 640.0, 640.0)
