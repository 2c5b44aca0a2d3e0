"""The one module that knows TensorRT's generations: 8.6, 10, 11, and TensorRT for RTX.

| need | 8.6 | 10 | 11, RTX |
|---|---|---|---|
| types | obeyed layer precisions (engine/constraints.py) | strongly typed network | strongly typed network |
| network flags | explicit batch, required | explicit batch is the default | explicit batch is the only one |
| instance norm | a plugin that needs cuDNN: decomposed in the graph instead | native | native |
| cuBLAS, cuDNN | on by default | off by default | gone |
| progress | none | `IProgressMonitor` | `IProgressMonitor` |

Everything is asked of the module itself (`hasattr`, enum members), so that a new release needs no new branch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from sadtrt_core.errors import Unavailable

Flavour = Literal["tensorrt", "tensorrt-rtx"]
#: Told what the builder does: a phase, and how much of it is done (0..1) where that is known.
Progress = Callable[[str, "float | None"], None]

_MODULES: tuple[str, ...] = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
#: First release whose own GridSample takes volumes.
_VOLUME_SAMPLER: dict[Flavour, tuple[int, int]] = {"tensorrt": (11, 2), "tensorrt-rtx": (1, 6)}
#: What TensorRT for RTX runs on, besides everything of compute capability 12.
_RTX_CAPABILITIES = frozenset({(8, 0), (8, 6), (8, 9)})
#: The most scratch memory that a tactic may take, in MiB.
WORKSPACE_MB = 4096
INSTALL = "pip install 'sadtrt[gpu]' (or 'sadtrt[rtx]' for TensorRT for RTX)"


def tensorrt_module() -> Any | Unavailable:
    """The TensorRT Python module: `tensorrt` where it is installed, else TensorRT for RTX, else why there is none."""
    failures = []
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                failures.append(f"{name}: {error}")
        except (ImportError, OSError) as error:  # Installed, but its libraries do not load.
            failures.append(f"{name}: {error}")
        else:
            if hasattr(module, "Builder"):
                return module
            failures.append(f"{name}: the package has no builder")
    if failures:
        return Unavailable(f"TensorRT is installed but does not load ({'; '.join(failures)}): reinstall with {INSTALL}")
    return Unavailable(f"TensorRT is not installed: {INSTALL}")


def flavour(trt: Any) -> Flavour:
    """Which of the two products a module is."""
    return "tensorrt-rtx" if "rtx" in trt.__name__ else "tensorrt"


def version_text(trt: Any) -> str:
    """The library's own version where it can be asked, else that of the bindings, which may differ in the last part."""
    major = _numbers(trt.__version__)[0]
    if flavour(trt) == "tensorrt":
        with contextlib.suppress(OSError, AttributeError):
            # Already loaded by the bindings: the name finds that copy.
            number = int(ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion())
            scale = 1000 if number < 10000 else 10000
            return f"{number // scale}.{number % scale // 100}.{number % 100}"
    return str(trt.__version__)


def version(trt: Any) -> tuple[int, int]:
    """Major and minor version."""
    major, minor = (*_numbers(version_text(trt)), 0)[:2]
    return major, minor


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def strongly_typed(trt: Any) -> bool:
    """Whether the network takes its types from the graph. 8.6 is the only generation here that does not."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def keeps_timing_cache(trt: Any) -> bool:
    """Whether a timing cache is worth keeping: TensorRT for RTX chooses tactics on the user's machine instead."""
    return flavour(trt) == "tensorrt"


def bfloat16_absence(trt: Any) -> Unavailable | None:
    """Why this generation cannot compute in bfloat16; None where it can."""
    if hasattr(trt.DataType, "BF16"):
        return None
    return Unavailable(f"TensorRT {version_text(trt)} has no bfloat16: use TensorRT 10 or later")


def float8_absence(trt: Any, capability: tuple[int, int]) -> Unavailable | None:
    """Why this generation cannot compute in eight-bit floats on a GPU of this compute capability; None where it can."""
    # 8.6 has the name without the arithmetic.
    named_only = flavour(trt) == "tensorrt" and version(trt) < (10, 0)
    if named_only or not hasattr(trt.DataType, "FP8"):
        return Unavailable(f"TensorRT {version_text(trt)} has no fp8: use TensorRT 10 or later")
    if capability < (8, 9):
        found = f"{capability[0]}.{capability[1]}"
        return Unavailable(f"fp8 needs a GPU of compute capability 8.9 or later, this one has {found}: use int8")
    return None


def builtin_grid_sample_absence(trt: Any) -> Unavailable | None:
    """Why this generation cannot sample a volume by itself; None where it can."""
    first = _VOLUME_SAMPLER[flavour(trt)]
    if version(trt) >= first:
        return None
    product = "TensorRT for RTX" if flavour(trt) == "tensorrt-rtx" else "TensorRT"
    return Unavailable(
        f"{product} {version_text(trt)} samples images only, volumes from {first[0]}.{first[1]} on: use --grid-sample "
        "native or plugin"
    )


def runtime_absence(trt: Any, capability: tuple[int, int]) -> Unavailable | None:
    """Why the runtime refuses a GPU of this compute capability; None where it does not."""
    if flavour(trt) == "tensorrt-rtx" and capability[0] != 12 and capability not in _RTX_CAPABILITIES:
        return Unavailable(
            f"TensorRT for RTX {version_text(trt)} does not run on compute capability {capability[0]}.{capability[1]} "
            "(8.0, 8.6, 8.9 and 12.x are supported): pip install tensorrt"
        )
    return None


def current_gpu() -> tuple[str, str]:
    """Name and compute capability of the current CUDA device; `none` where a builder works without one."""
    if not torch.cuda.is_available():
        return "none", ""
    major, minor = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name(), f"{major}.{minor}"


@functools.cache
def logger(trt: Any) -> Any:
    """The process's logger, of which there is one: the library keeps the first it sees, so it is never freed."""

    class Logger(trt.ILogger):
        """Gives warnings and errors to whoever collects them; prints nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.collecting: list[list[str]] = []

        def log(self, severity: Any, message: str) -> None:
            # The lower a severity's number, the worse it is.
            if int(severity) <= int(trt.ILogger.WARNING):
                for messages in self.collecting:
                    messages.append(message)

    return Logger()


@contextlib.contextmanager
def collected_messages(trt: Any) -> Iterator[list[str]]:
    """A list that fills with the warnings and errors that TensorRT logs inside the block."""
    collecting = logger(trt).collecting
    messages: list[str] = []
    collecting.append(messages)
    try:
        yield messages
    finally:
        collecting[:] = [other for other in collecting if other is not messages]


def in_one_line(messages: list[str]) -> str:
    """The last three messages joined for an error sentence."""
    return " | ".join(" ".join(message.split()) for message in messages[-3:]) or "it gave no message"


def create_network(trt: Any, builder: Any) -> Any:
    """A network that takes its types from the graph where the generation can; an explicit batch everywhere."""
    flags = 0
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"):
        # The bit positions differ between generations: only the enum knows them. 10 deprecates EXPLICIT_BATCH but
        # accepts it.
        flag = getattr(trt.NetworkDefinitionCreationFlag, name, None)
        if flag is not None:
            flags |= 1 << int(flag)
    network = builder.create_network(flags)
    if network is None:
        raise RuntimeError(f"TensorRT {version_text(trt)} made no network for the flags {flags:b}")
    return network


def create_parser(trt: Any, network: Any) -> Any:
    """An ONNX parser for a network. Its flags are left alone: graph/instance_norm.py says what setting one did."""
    return trt.OnnxParser(network, logger(trt))


def create_config(trt: Any, builder: Any, *, optimization_level: int, tf32: bool) -> Any:
    """A builder configuration with detailed layer names, TF32 as asked, and no tactics from cuBLAS or cuDNN."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_MB << 20)
    config.builder_optimization_level = optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # It is on by default.
    sources = 0
    for name in ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"):
        source = getattr(trt.TacticSource, name, None)
        if source is not None:
            sources |= 1 << int(source)
    config.set_tactic_sources(sources)
    return config


def attach_progress(trt: Any, config: Any, progress: Progress) -> Any:
    """Report the builder's phases to `progress`; the returned object must live until the build is over.

    8.6 has no progress monitor: there the caller shows the time that has passed.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            progress(phase_name, 0.0)

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            total = self._steps.get(phase_name, 0)
            progress(phase_name, min(1.0, (step + 1) / total) if total else None)
            return True

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


def attach_timing_cache(config: Any, serialized: bytes) -> bool:
    """Give a configuration a timing cache. False where TensorRT refused the bytes, and it starts an empty one."""
    cache = config.create_timing_cache(serialized)
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    empty = config.create_timing_cache(b"")
    if empty is not None:
        config.set_timing_cache(empty, False)
    return False


def serialized_timing_cache(config: Any) -> bytes:
    """What a configuration's timing cache holds after a build; empty where there is none."""
    cache = config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


def create_builder(trt: Any) -> Any:
    """A builder; RuntimeError with TensorRT's own words where it refuses the machine (8.6 wants a GPU)."""
    return _create(trt, trt.Builder)


def create_runtime(trt: Any) -> Any:
    """A runtime that loads engines; RuntimeError with TensorRT's own words where it refuses the machine."""
    return _create(trt, trt.Runtime)


def _create(trt: Any, kind: Any) -> Any:
    with collected_messages(trt) as messages:
        try:
            return kind(logger(trt))
        except (TypeError, RuntimeError) as error:
            raise RuntimeError(
                f"TensorRT {version_text(trt)} cannot start its {kind.__name__.lower()} here: {in_one_line(messages)}"
            ) from error
