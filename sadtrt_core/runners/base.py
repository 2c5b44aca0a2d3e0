"""The runner protocol: one stage in one precision, loaded and ready to run, whoever computes it."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from typing_extensions import Self

from sadtrt_core.case import GridSample
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.precision import Precision
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import Stage, TensorSpec


@dataclass(frozen=True)
class Job:
    """What a runner is asked to load: a stage, in a precision, at a batch size.

    `grid_sample` says how an exported graph samples a volume; PyTorch runners always use `torch`. `cache` is the folder
    of graphs, engines and the timing cache. `optimization_level` is TensorRT's builder's, 0 (quick) to 5 (thorough).
    `calibration` has the ranges of a precision that quantizes.
    """

    renderer: Renderer
    stage: Stage
    precision: Precision
    grid_sample: GridSample
    batch: int
    device: torch.device
    cache: Path
    optimization_level: int = 3
    calibration: Calibration | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.stage.inputs(self.renderer.config)

    @property
    def calibration_digest(self) -> str | None:
        """What tells the ranges of a precision that quantizes from others."""
        return None if self.calibration is None else self.calibration.digest[:16]

    @property
    def calibration_notes(self) -> tuple[str, ...]:
        """What a reader has to know of the ranges; nothing where none were needed."""
        return () if self.calibration is None else (self.calibration.sentence(),)

    @property
    def input_device(self) -> torch.device:
        """Where inputs have to be: the device, or the host for the clip, which makes the transfers itself."""
        return torch.device("cpu") if self.stage.module is None else self.device

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.stage.outputs(self.renderer.config)


class StageRunner(abc.ABC):
    """A life cycle in five calls, so that timing sees the arithmetic alone.

    `activate` loads; `bind` hands over inputs; `execute` enqueues the stage once and may return before the device is
    done; `synchronize` waits for it; `fetch` gives the outputs of the last `execute`. `infer` is all of them. Inputs
    and outputs are float32 tensors on `job.device`. Use as a context manager: leaving it frees everything.
    """

    #: Bytes of the built engine, where there is one.
    engine_bytes: int | None = None
    #: The stream `execute` enqueues on; None on a CPU.
    stream: torch.cuda.Stream | None = None
    #: Whether no second one may be loaded beside it, because such runners share what each would change for the other.
    one_at_a_time: bool = False
    #: What a reader of the figures has to know, one sentence each.
    notes: tuple[str, ...] = ()

    def __init__(self, job: Job) -> None:
        self.job = job

    @abc.abstractmethod
    def activate(self) -> None:
        """Load weights or an engine and allocate; called once."""

    @abc.abstractmethod
    def deactivate(self) -> None:
        """Free what `activate` took; safe to call after a failed `activate`."""

    @abc.abstractmethod
    def _bind(self, inputs: dict[str, Tensor]) -> None:
        """Take inputs that were checked at the door."""

    @abc.abstractmethod
    def execute(self) -> None:
        """Enqueue the stage once on the bound inputs."""

    @abc.abstractmethod
    def fetch(self) -> dict[str, Tensor]:
        """Outputs of the last `execute` by name. They stay valid until the next `execute`."""

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""
        if self.stream is not None:
            self.stream.synchronize()

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """Hand over inputs by name; ValueError names the tensor that is missing, unexpected or of another make."""
        check_inputs(self.job, inputs)
        self._bind(dict(inputs))

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bind, execute, wait and fetch."""
        self.bind(inputs)
        self.execute()
        self.synchronize()
        return self.fetch()

    def frames(self, items: Iterable[Mapping[str, Tensor]]) -> Tensor:
        """The pictures (T, 3, H, W) that a runner of the generator makes of each of these inputs, on the host."""
        return torch.cat([self.infer(item)["prediction"].cpu() for item in items])

    def __enter__(self) -> Self:
        try:
            self.activate()
        except BaseException:
            self.deactivate()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()


def check_inputs(job: Job, inputs: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `inputs` has exactly the stage's tensors, float32, of the right shape and device."""
    names = [spec.name for spec in job.inputs]
    for name in inputs:
        if name not in names:
            raise ValueError(f"stage {job.stage.name} takes no input {name!r}: expected {', '.join(names)}")
    for spec in job.inputs:
        if spec.name not in inputs:
            raise ValueError(f"stage {job.stage.name} lacks its input {spec.name!r}: expected {', '.join(names)}")
        tensor, expected = inputs[spec.name], spec.batched(job.batch)
        what = f"input {spec.name!r} of stage {job.stage.name}"
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{what} has shape {tuple(tensor.shape)}: expected {expected}")
        what += f" {expected}"
        if tensor.dtype != torch.float32:
            raise ValueError(f"{what} is {tensor.dtype}: expected torch.float32 {expected}")
        if tensor.device.type != job.input_device.type:
            raise ValueError(f"{what} is on {tensor.device}: expected {expected} on {job.input_device}")
