"""One run of the suite: what was asked for, the renderer and workload it is asked of, and where records go.

`bench/` composes this with pytest; nothing here knows of pytest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from sadtrt_core.case import GRAPH_GRID_SAMPLES, Case, GridSample
from sadtrt_core.config import RunConfig
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import Unavailable
from sadtrt_core.files import write_file
from sadtrt_core.graph.calibrate import calibrated
from sadtrt_core.graph.calibration import Calibration
from sadtrt_core.measure.drift import measure_drift, worst_frame_picture
from sadtrt_core.measure.reference import Reference, checked_reference
from sadtrt_core.measure.sensors import Sensors, find_sensors
from sadtrt_core.measure.timing import CPU_PLAN, GPU_PLAN, L2Flush, TimingPlan
from sadtrt_core.plan import precision_digest, precision_named
from sadtrt_core.precision import PLAN_SUFFIX, Precision
from sadtrt_core.records import schema
from sadtrt_core.records.schema import Drift
from sadtrt_core.records.store import FRAMES_FOLDER, RunWriter
from sadtrt_core.renderer.inputs import frame_inputs, stage_inputs
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, stage_named
from sadtrt_core.renderer.standin import choose_weights
from sadtrt_core.renderer.workload import Workload, make_workload
from sadtrt_core.report.html import write_html
from sadtrt_core.report.summary import summary_csv
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.registry import RunnerKind, grid_sample_label

#: What overrides types or timing from outside, whatever a precision asks for: tf32 rows are fp32 under the first.
_ARITHMETIC_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUDA_LAUNCH_BLOCKING")
#: Frames of the built-in driving sequence that ranges are measured over at least.
CALIBRATION_SPAN = 32


@dataclass
class Session:
    """The state of one run. Heavy parts are made when they are first asked for."""

    options: RunConfig
    #: Told what a person should know while the run goes on.
    say: Callable[[str], None] = lambda line: None
    _writer: RunWriter | None = field(default=None, init=False)
    _inputs: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict, init=False)
    _precisions: dict[str, Precision] = field(default_factory=dict, init=False)
    #: Engines that could not be built before the run, by stage, precision and batch, and why.
    unbuilt: dict[tuple[str, str, int], str] = field(default_factory=dict, init=False)

    @cached_property
    def device(self) -> torch.device:
        """Where runners compute: the GPU when there is one, unless another was asked for."""
        wanted = self.options.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda was asked for, but PyTorch sees no GPU: run `sadtrt doctor`")
        return torch.device(wanted)

    @cached_property
    def renderer(self) -> Renderer:
        """The renderer under the weights that were asked for, or the best there are."""
        options = self.options
        return choose_weights(
            options.size,
            options.checkpoint,
            options.mapping_checkpoint,
            options.weights,
            has_gpu=self.device.type == "cuda",
            cache=options.cache,
            say=self.say,
        )

    @cached_property
    def workload(self) -> Workload:
        """What is rendered."""
        options = self.options
        return make_workload(self.renderer.config, options.frames, options.source_image, options.samples)

    @cached_property
    def timing_plan(self) -> TimingPlan:
        """How long to warm up and sample on this device."""
        return GPU_PLAN if self.device.type == "cuda" else CPU_PLAN

    @cached_property
    def sensors(self) -> Sensors | Unavailable:
        """The device's sensors, or why there are none."""
        return find_sensors(self.device)

    @cached_property
    def l2_flush(self) -> L2Flush | None:
        """What empties the GPU's L2 cache between samples, where that was asked for."""
        return L2Flush(self.device) if self.options.flush_l2 and self.device.type == "cuda" else None

    @property
    def grid_sample(self) -> GridSample:
        """How graphs sample volumes: what was asked for, or the plugin where it is built, else native."""
        wanted = self.options.grid_sample
        if wanted in GRAPH_GRID_SAMPLES:
            return wanted
        if wanted != "auto":
            raise ValueError(f"grid sample {wanted!r} is not known: expected auto, {', '.join(GRAPH_GRID_SAMPLES)}")
        on_gpu = self.device.type == "cuda"
        return "plugin" if on_gpu and isinstance(find_plugin(), PluginLibrary) else "native"

    def job(self, stage: str, kind: RunnerKind, precision: str, batch: int) -> Job:
        """What a runner is asked for, with measured ranges where it is to quantise and can serve."""
        job = self.plain_job(stage, precision, batch)
        # Asked of a way to sample that every machine has, in case the caller puts it in place of this one.
        if job.precision.quantize is None or kind.available(replace(job, grid_sample="native")) is not None:
            return job
        return replace(job, calibration=self.calibration)

    def plain_job(self, stage: str, precision: str, batch: int) -> Job:
        """The same without ranges: enough to ask whether a runner serves. A clip's batch is its number of frames."""
        return Job(
            renderer=self.renderer,
            stage=stage_named(stage),
            precision=self.precision(precision),
            grid_sample=self.grid_sample,
            batch=self._clip_frames if stage == "clip" and batch == 1 else batch,
            device=self.device,
            cache=self.options.cache,
            optimization_level=self.options.optimization_level,
        )

    @cached_property
    def calibration(self) -> Calibration:
        """Ranges of the generator's convolutions over the driving sequence, from the cache or measured now."""
        options = self.options
        # Not from the few frames of a comparison: the same ranges, so that the same engines serve.
        frames = max(options.frames, CALIBRATION_SPAN)
        workload = make_workload(self.renderer.config, frames, options.source_image, options.samples)
        return calibrated(self.renderer, workload, options.cache, self.say)

    def precision(self, name: str) -> Precision:
        """The precision of that name; a plan is read once, so that editing its file cannot split a run in two."""
        if name not in self._precisions:
            self._precisions[name] = precision_named(name)
        return self._precisions[name]

    def _conditions(self) -> dict[str, str]:
        """What a run's figures depend on beside its options, for whoever compares it with another."""
        plans = {how.name: how for name, how in self._precisions.items() if name.endswith(PLAN_SUFFIX)}
        found = {f"plan {name}": precision_digest(how)[:16] for name, how in plans.items()}
        found |= {name: os.environ[name] for name in _ARITHMETIC_VARIABLES if name in os.environ}
        return found | ({"threads": str(torch.get_num_threads())} if self.device.type == "cpu" else {})

    @property
    def _clip_frames(self) -> int:
        # On a CPU a frame takes a good part of a second; a few show the transfers and the once-a-clip parts.
        return self.options.clip_frames or (16 if self.device.type == "cuda" else 2)

    def key(self, kind: RunnerKind, job: Job) -> Case:
        """The key that the job's records carry."""
        return Case(job.stage.name, kind.name, job.precision.name, grid_sample_label(kind, job), job.batch)

    def inputs(self, job: Job) -> dict[str, Tensor]:
        """Inputs of the job's stage where its runner wants them; the same for every runner."""
        key = (job.stage.name, job.batch)
        if key not in self._inputs:
            self._inputs[key] = stage_inputs(self.renderer, self.workload, job.stage, job.batch, job.input_device)
        return self._inputs[key]

    @cached_property
    def frame_inputs(self) -> list[dict[str, Tensor]]:
        """Inputs of the generator for every frame of the driving sequence, on the device."""
        return frame_inputs(self.renderer, self.workload, STAGES["generator"], self.device)

    @cached_property
    def reference(self) -> Reference:
        """The frames that drift is measured against, checked before anything is judged by them."""
        return checked_reference(self._reference_job, self.frame_inputs, self.drift_is_meaningful)

    @property
    def _reference_job(self) -> Job:
        return Job(
            self.renderer, STAGES["generator"], precision_named("fp32"), "torch", 1, self.device, self.options.cache
        )

    @property
    def drift_is_meaningful(self) -> bool:
        """False under seeded weights: noise says nothing about a trained renderer."""
        return self.renderer.weights.kind != "seeded"

    def render_sequence(self, runner: StageRunner, items: Sequence[dict[str, Tensor]]) -> Tensor:
        """The generator's frames (T, 3, H, W), float32 on the host, through an activated runner of batch 1."""
        return torch.cat([runner.infer(item)["prediction"].cpu() for item in items])

    def drift(self, frames: Tensor) -> Drift:
        """Drift of the whole sequence against the reference."""
        return measure_drift(self.reference.frames, frames, meaningful=self.drift_is_meaningful)

    @property
    def recorded_weights(self) -> schema.Weights:
        """The weights as records name them."""
        weights = self.renderer.weights
        return schema.Weights(weights.kind, weights.name, weights.digest)

    @property
    def recorded_workload(self) -> schema.Workload:
        """What is rendered, as records name it."""
        workload, size = self.workload, self.renderer.config.image_size
        return schema.Workload(workload.name, workload.kp_driving.shape[0], size, workload.digest)

    @property
    def writer(self) -> RunWriter:
        """Where records go; the run's folder is made with the first record."""
        if self._writer is None:
            self._writer = RunWriter(
                self.options.results,
                read_environment(self.device),
                self.recorded_weights,
                self.recorded_workload,
                self.options.as_text() | self._conditions(),
            )
        return self._writer

    def save_frames(self, key: Case, frames: Tensor, drift: Drift) -> None:
        """Keep a picture of the worst frame, beside the reference's and an error map, in the run's folder."""
        name = "-".join((key.stage, key.runner, key.precision, key.grid_sample))
        title = " ".join((key.runner, key.precision))
        picture = worst_frame_picture(title, self.reference.frames, frames, drift)
        folder = self.writer.folder / FRAMES_FOLDER
        folder.mkdir(exist_ok=True)
        write_file(folder / f"{name}.png", picture)

    def finish(self) -> None:
        """Write the summary and the report, and mark the run complete."""
        folder = self.writer.folder
        write_html(self.writer.finish(summary_csv), folder)

    def check(self) -> None:
        """Load what was asked for, so that a mistake is said once and at once. Raises ValueError."""
        _ = self.device, self.renderer, self.workload
        for name in self.options.precisions:
            self.precision(name)

    @property
    def started(self) -> bool:
        """Whether anything was recorded."""
        return self._writer is not None
