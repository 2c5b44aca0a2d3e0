"""Reads one GPU's clocks, heat, power and memory through NVML, or says why it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sadtrt_core.errors import Unavailable

#: NVML's bits for what limits the clocks, by the names its documentation gives them (nvmlClocksEventReasons).
CLOCK_REASONS: dict[int, str] = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "hardware power brake",
    0x100: "display clock setting",
    0x200: "board limit",
    0x400: "reliability voltage",
}
#: Settings that keep the clocks at one level, and idleness, which a GPU between two launches reports too.
BENIGN_REASONS = frozenset({"idle", "application clocks", "display clock setting"})
#: What takes the clocks down because something is wrong: heat, or a power supply that cannot follow.
EMERGENCY_REASONS = frozenset(
    {"hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake"}
)


@dataclass(frozen=True)
class Reading:
    """One look at a GPU; None for what it does not tell. Clocks in MHz, deg C, W, memory in MB (1e6 bytes)."""

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    memory_used_mb: float | None = None
    reasons: frozenset[str] = frozenset()
    #: What the board may draw at present.
    power_limit_w: float | None = None

    @property
    def throttle_reasons(self) -> frozenset[str]:
        """What keeps the clocks down, without idleness and settings."""
        return self.reasons - BENIGN_REASONS


class Sensors(Protocol):
    """What telemetry asks of a GPU."""

    def read(self) -> Reading:
        """The state at this moment."""

    def energy_mj(self) -> float | None:
        """Total energy since the driver was loaded in mJ, None where the GPU does not count it."""


class NvmlSensors:
    """One GPU's sensors through an initialised NVML; what a GPU does not support reads as None."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        # Drivers before 535 know the reasons by their older name only.
        self._reasons: Callable[[Any], int] = getattr(
            nvml, "nvmlDeviceGetCurrentClocksEventReasons", nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            # Not supported here, or gone for this moment: either way there is no figure to record.
            return None

    def _power_mw(self) -> int | None:
        """Power of this moment where the driver tells it: what `nvmlDeviceGetPowerUsage` gives is, from Ampere on (but
        for the A100), the mean of the last second, which still includes whatever ran before.
        """
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        answers = None if field is None else self._ask(self._nvml.nvmlDeviceGetFieldValues, [field])
        if answers is not None and answers[0].nvmlReturn == self._nvml.NVML_SUCCESS:
            return int(answers[0].value.uiVal)
        return self._ask(self._nvml.nvmlDeviceGetPowerUsage)

    def read(self) -> Reading:
        nvml = self._nvml
        power, limit = self._power_mw(), self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo)
        bits = self._ask(self._reasons)
        if bits is None:
            bits = self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return Reading(
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            power_w=None if power is None else power / 1e3,
            memory_used_mb=None if memory is None else memory.used / 1e6,
            reasons=reason_names(bits),
            power_limit_w=None if limit is None else limit / 1e3,
        )

    def energy_mj(self) -> float | None:
        return self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)


def reason_names(bits: int) -> frozenset[str]:
    """Names of the bits that are set; a bit that is not known yet is named by its number."""
    bits = int(bits)
    return frozenset(
        CLOCK_REASONS.get(1 << place, f"reason {1 << place:#x}")
        for place in range(bits.bit_length())
        if bits >> place & 1
    )


def find_sensors(device: torch.device) -> Sensors | Unavailable:
    """The sensors of the GPU that PyTorch calls `device`, or why there are none.

    CUDA_VISIBLE_DEVICES renumbers GPUs for CUDA but not for NVML, so the GPU is found by its UUID, else by its PCI
    address. NVML stays initialised until the process ends.
    """
    if device.type != "cuda":
        return Unavailable("a CPU has no NVML: no clocks, power or energy")
    try:
        import pynvml
    except ImportError:
        return Unavailable("the Python package nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        pynvml.nvmlInit()
        return NvmlSensors(pynvml, nvml_handle(pynvml, torch.cuda.get_device_properties(device)))
    except pynvml.NVMLError as error:
        return Unavailable(f"NVML does not answer: {error}")


def nvml_handle(nvml: Any, properties: Any) -> Any:
    """NVML's handle of the GPU with PyTorch's device `properties`; raises the last NVMLError if there is none."""
    if (uuid := getattr(properties, "uuid", None)) is not None:
        # A MIG slice is not found so; its clocks and power are its whole GPU's, which the PCI address finds.
        with contextlib.suppress(nvml.NVMLError):
            return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    domain, bus, place = (int(getattr(properties, f"pci_{name}_id")) for name in ("domain", "bus", "device"))
    return nvml.nvmlDeviceGetHandleByPciBusId(f"{domain:08X}:{bus:02X}:{place:02X}.0")
