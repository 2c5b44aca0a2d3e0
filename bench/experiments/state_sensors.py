"""What NVML tells of a GPU's state beyond sensors.py, for experiments: every clock, memory's heat, limits that held."""

from __future__ import annotations

from typing import Any

import torch

from sadtrt_core.measure.sensors import nvml_handle

#: Counters of the time that a limit held the clocks back, by their names in NVML (nvmlPerfPolicyType_t).
VIOLATIONS = ("POWER", "THERMAL", "SYNC_BOOST", "BOARD_LIMIT", "LOW_UTILIZATION", "RELIABILITY")


class StateSensors:
    """One GPU's sensors through an initialised NVML; None for what the GPU, its driver or the bindings do not tell."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def read(self) -> dict[str, float | None]:
        """Clocks in MHz, power in W, temperatures in deg C, the performance state, the generation of the PCIe link."""
        nvml = self._nvml
        milliwatts = self._field("NVML_FI_DEV_POWER_INSTANT")
        figures = {
            f"{name}_clock_mhz": self._ask("nvmlDeviceGetClockInfo", getattr(nvml, f"NVML_CLOCK_{kind}"))
            for name, kind in (("sm", "SM"), ("memory", "MEM"), ("graphics", "GRAPHICS"), ("video", "VIDEO"))
        }
        return figures | {
            "power_w": None if milliwatts is None else milliwatts / 1e3,
            "gpu_temperature_c": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "memory_temperature_c": self._field("NVML_FI_DEV_MEMORY_TEMP"),
            "performance_state": self._ask("nvmlDeviceGetPerformanceState"),
            "pcie_generation": self._ask("nvmlDeviceGetCurrPcieLinkGeneration"),
        }

    def violations_ms(self) -> dict[str, float | None]:
        """Milliseconds for which each limit has held the clocks back so far."""
        return {name.lower(): self._violation_ms(name) for name in VIOLATIONS}

    def _violation_ms(self, name: str) -> float | None:
        policy = getattr(self._nvml, f"NVML_PERF_POLICY_{name}", None)
        counted = None if policy is None else self._ask("nvmlDeviceGetViolationStatus", policy)
        nanoseconds = self._field(f"NVML_FI_DEV_PERF_POLICY_{name}") if counted is None else counted.violationTime
        return None if nanoseconds is None else nanoseconds / 1e6

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            # Not supported by this GPU, or not known to these bindings: either way there is no figure.
            return None

    def _field(self, name: str) -> float | None:
        number = getattr(self._nvml, name, None)
        answers = None if number is None else self._ask("nvmlDeviceGetFieldValues", [number])
        if answers is None or answers[0].nvmlReturn != self._nvml.NVML_SUCCESS:
            return None
        members = {"DOUBLE": "dVal", "UNSIGNED_INT": "uiVal", "UNSIGNED_LONG": "ulVal", "UNSIGNED_LONG_LONG": "ullVal"}
        for kind, member in members.items():
            if answers[0].valueType == getattr(self._nvml, f"NVML_VALUE_TYPE_{kind}"):
                return float(getattr(answers[0].value, member))
        return None


def state_sensors(device: torch.device) -> StateSensors:
    """The sensors of the GPU that PyTorch calls `device`. SystemExit says why there are none."""
    try:
        import pynvml
    except ImportError:
        raise SystemExit("the Python package nvidia-ml-py is not installed: pip install nvidia-ml-py") from None
    try:
        pynvml.nvmlInit()
        return StateSensors(pynvml, nvml_handle(pynvml, torch.cuda.get_device_properties(device)))
    except pynvml.NVMLError as error:
        raise SystemExit(f"NVML does not answer: {error}") from error
