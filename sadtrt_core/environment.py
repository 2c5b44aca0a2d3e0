"""What this machine is: the identity that every run carries and the gate compares."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from sadtrt_core import __version__
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.records.schema import Environment, TensorRTFlavour

_FLAVOURS: dict[api.Flavour, TensorRTFlavour] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def package_version(name: str) -> str | None:
    """The installed version of a distribution, None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu_driver() -> str | None:
    """The NVIDIA driver's version by NVML, None without a driver or without its bindings."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # No such file outside Linux; the platform module's answer has to do.
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    root = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_environment(device: torch.device) -> Environment:
    """The environment of a run on `device`; GPU fields are None on a CPU."""
    on_gpu = device.type == "cuda"
    found = api.tensorrt_module()
    tensorrt = None if isinstance(found, api.Unavailable) else found
    status = _git("status", "--porcelain", "--untracked-files=no")
    return Environment(
        gpu=torch.cuda.get_device_name(device) if on_gpu else None,
        compute_capability=".".join(map(str, torch.cuda.get_device_capability(device))) if on_gpu else None,
        driver=gpu_driver() if on_gpu else None,
        cuda=torch.version.cuda if on_gpu else None,
        tensorrt=api.version_text(tensorrt) if tensorrt else None,
        tensorrt_flavour=_FLAVOURS[api.flavour(tensorrt)] if tensorrt else None,
        torch=str(torch.__version__),
        onnxruntime=package_version("onnxruntime-gpu") or package_version("onnxruntime"),
        python=platform.python_version(),
        cpu=_cpu_name(),
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        platform=platform.platform(),
        sadtrt_version=__version__,
        commit=_git("rev-parse", "--short=12", "HEAD"),
        dirty=bool(status),
    )
