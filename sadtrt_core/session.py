"""One run: what was asked for, the renderer and workload it is asked of, its cases, and where records go.

`bench/` composes this with pytest; nothing here knows of pytest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sadtrt_core.case import GRAPH_GRID_SAMPLES, Case, GridSample
from sadtrt_core.config import RunConfig
from sadtrt_core.engine.plugin import plugin_absence
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import Unavailable, UserError
from sadtrt_core.files import require_writable
from sadtrt_core.graph.calibrate import calibrated
from sadtrt_core.graph.export import OPSET, cached_export
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.graph.typed import quantized_nodes
from sadtrt_core.measure.drift import Reference, checked_reference, recorded_line
from sadtrt_core.measure.outputs import exact_outputs
from sadtrt_core.measure.seen import encoded, seen_drift
from sadtrt_core.measure.sensors import Sensors, find_sensors
from sadtrt_core.measure.timing import CPU_PLAN, GPU_PLAN, L2Flush, TimingPlan
from sadtrt_core.plan import precision_digest, precision_named
from sadtrt_core.precision import PLAN_SUFFIX, Precision
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.records import schema
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.store import RunWriter
from sadtrt_core.renderer.picture import picture_files
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES, stage_named
from sadtrt_core.renderer.standin import choose_weights
from sadtrt_core.renderer.workload import (
    FRAMES,
    MOST_FRAMES,
    Workload,
    frame_inputs,
    held_out,
    identity,
    make_workload,
    stage_inputs,
)
from sadtrt_core.report.html import write_html
from sadtrt_core.report.tables import summary_csv
from sadtrt_core.runners.base import Job, StageRunner
from sadtrt_core.runners.registry import RunnerKind, grid_sample_label, runner_named

#: What overrides types or timing from outside, whatever a precision asks for: tf32 rows are fp32 under the first.
_ARITHMETIC_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUDA_LAUNCH_BLOCKING")
#: Frames of the built-in driving sequence that ranges are measured over at least.
CALIBRATION_SPAN = 32


@dataclass
class Session:
    """The state of one run. Heavy parts are made when they are first asked for."""

    options: RunConfig
    #: Told what a person should know while the run goes on.
    report: Reporter = SILENT
    _inputs: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict, init=False)
    _frames: dict[str, list[dict[str, Tensor]]] = field(default_factory=dict, init=False)
    _exact: dict[tuple[str, int], dict[str, Tensor]] = field(default_factory=dict, init=False)
    _precisions: dict[str, Precision] = field(default_factory=dict, init=False)
    _quantizes: dict[tuple[str, str], bool] = field(default_factory=dict, init=False)
    #: Engines that could not be built before the run, and why.
    unbuilt: dict[Case, str] = field(default_factory=dict, init=False)

    @cached_property
    def device(self) -> torch.device:
        """Where runners compute: the GPU when there is one, unless another was asked for."""
        wanted, has_gpu = self.options.device, torch.cuda.is_available()
        if wanted == "cuda" and not has_gpu:
            raise UserError("--device cuda was asked for, but PyTorch sees no GPU: run `sadtrt doctor`")
        return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")

    @property
    def on_gpu(self) -> bool:
        """Whether runners compute on a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def renderer(self) -> Renderer:
        """The renderer under the weights that were asked for, or the best there are."""
        options = self.options
        given = options.size, options.checkpoint, options.mapping_checkpoint, options.weights
        return choose_weights(*given, has_gpu=self.on_gpu, cache=options.cache, report=self.report)

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """What drift is measured over: one workload for each source picture."""
        options, config = self.options, self.renderer.config
        pictures = picture_files(options.source_images) or (None,)
        if len(pictures) * (options.frames or FRAMES) > MOST_FRAMES:
            raise UserError(f"{len(pictures)} source pictures make more than {MOST_FRAMES} frames: give less of either")
        return tuple(make_workload(config, options.frames, one, options.samples) for one in pictures)

    @property
    def workload(self) -> Workload:
        """What stages are timed with: the first source picture."""
        return self.workloads[0]

    @cached_property
    def timing_plan(self) -> TimingPlan:
        """How long to warm up and sample on this device."""
        return GPU_PLAN if self.on_gpu else CPU_PLAN

    @cached_property
    def sensors(self) -> Sensors | Unavailable:
        """The device's sensors, or why there are none."""
        return find_sensors(self.device)

    @cached_property
    def l2_flush(self) -> L2Flush | None:
        """What empties the GPU's L2 cache between samples, where that was asked for."""
        return L2Flush(self.device) if self.options.flush_l2 and self.on_gpu else None

    @property
    def grid_sample(self) -> GridSample:
        """How graphs sample volumes: what was asked for, or the plugin where it is built, else native."""
        wanted = self.options.grid_sample
        if wanted in GRAPH_GRID_SAMPLES:
            return wanted
        return "plugin" if self.on_gpu and plugin_absence() is None else "native"

    def _sampling(self, kind: RunnerKind) -> GridSample:
        """The same for a kind of runner: those that load no plugin take the native form unless told otherwise."""
        return "native" if self.options.grid_sample == "auto" and not kind.plugin else self.grid_sample

    def precision(self, name: str) -> Precision:
        """The precision of that name; a plan is read once, so that editing its file cannot split a run in two."""
        if name not in self._precisions:
            found = precision_named(name)
            self._precisions[name] = self._precisions[found.name] = found
        return self._precisions[name]

    def case(self, stage: str, runner: str, precision: str, batch: int = 1) -> Case:
        """The case of these names as a user types them: a plan's file gives its name, a clip its number of frames.

        Raises UserError for a name that is not known.
        """
        found, kind = stage_named(stage), runner_named(runner)
        if found.module is None and batch == 1:
            # On a CPU a frame is slow; a few show the transfers and the once-a-clip parts.
            batch = self.options.clip_frames or (16 if self.on_gpu else 2)
        grid_sample = grid_sample_label(kind, found, self._sampling(kind))
        return Case(stage, runner, self.precision(precision).name, grid_sample, batch)

    def job(self, case: Case) -> Job:
        """What a runner loads for a case, with measured ranges where it is to quantize and can serve."""
        job = self.plain_job(case)
        # Asked of a way to sample that every machine has, in case the caller puts it in place of this one.
        native = replace(job, grid_sample="native")
        if job.precision.quantize is None or runner_named(case.runner).available(native) is not None:
            return job
        return replace(job, calibration=self.calibration)

    def plain_job(self, case: Case) -> Job:
        """The same without ranges: enough to ask whether a runner serves."""
        own = self._sampling(runner_named(case.runner))
        return Job(
            renderer=self.renderer,
            stage=STAGES[case.stage],
            precision=self.precision(case.precision),
            grid_sample=case.grid_sample if case.grid_sample in GRAPH_GRID_SAMPLES else own,
            batch=case.batch,
            device=self.device,
            cache=self.options.cache,
            optimization_level=self.options.optimization_level,
        )

    def unavailable(self, case: Case) -> Unavailable | None:
        """Why the case cannot be measured on this machine; None where it can."""
        return runner_named(case.runner).available(self.plain_job(case))

    def quantizes(self, case: Case) -> bool:
        """Whether the case's precision quantizes any convolution of its stage."""
        key = (case.stage, case.precision)
        if key not in self._quantizes:
            graph = cached_export(self.renderer, STAGES[case.stage], OPSET, self.options.cache)
            self._quantizes[key] = bool(quantized_nodes(graph, self.precision(case.precision)))
        return self._quantizes[key]

    def runner(self, case: Case) -> StageRunner:
        """The case's runner, not yet activated."""
        return runner_named(case.runner).create(self.job(case))

    @cached_property
    def calibration(self) -> Calibration:
        """Ranges of the generator's convolutions, from the cache or measured now.

        Over frames that drift is not measured on: another motion of the source, and of another portrait where one is
        given.
        """
        options, config = self.options, self.renderer.config
        # Not as many as a comparison has: the same ranges, so that the same engines serve.
        frames = None if options.samples else max(options.frames or FRAMES, CALIBRATION_SPAN)
        picture = next(iter(picture_files(options.source_images)), None)
        workloads = [held_out(make_workload(config, frames, picture, options.samples), config)]
        if options.calibration_image is not None:
            other = make_workload(config, workloads[0].kp_driving.shape[0], options.calibration_image)
            workloads.append(held_out(other, config))
        return calibrated(self.renderer, workloads, options.cache, self.report, options.calibration_method)

    def _conditions(self) -> dict[str, str]:
        """What a run's figures depend on beside its options, for whoever compares it with another."""
        plans = {how.name: how for name, how in self._precisions.items() if name.endswith(PLAN_SUFFIX)}
        found = {f"plan {name}": precision_digest(how)[:16] for name, how in plans.items()}
        found |= {name: os.environ[name] for name in _ARITHMETIC_VARIABLES if name in os.environ}
        return found if self.on_gpu else found | {"threads": str(torch.get_num_threads())}

    def inputs(self, job: Job) -> dict[str, Tensor]:
        """Inputs of the job's stage where its runner wants them; the same for every runner."""
        if (key := (job.stage.name, job.batch)) not in self._inputs:
            self._inputs[key] = stage_inputs(self.renderer, self.workload, job.stage, job.batch, job.input_device)
        return self._inputs[key]

    def exact_outputs(self, job: Job) -> dict[str, Tensor]:
        """What PyTorch in fp32 makes of these inputs, on the host; the same for every runner."""
        if (key := (job.stage.name, job.batch)) not in self._exact:
            self._exact[key] = exact_outputs(job, self.inputs(job))
        return self._exact[key]

    def frame_inputs(self, stage: str = "generator") -> list[dict[str, Tensor]]:
        """A stage's inputs for every frame of the driving sequence, of each face in turn, on the device."""
        if stage not in self._frames:
            faces = (frame_inputs(self.renderer, one, STAGES[stage], self.device) for one in self.workloads)
            self._frames[stage] = [frame for frames in faces for frame in frames]
        return self._frames[stage]

    @cached_property
    def reference(self) -> Reference:
        """The frames that drift is measured against, checked before anything is judged by them."""
        job = self.plain_job(Case("generator", "pytorch", "fp32", "torch", 1))
        return checked_reference(job, self.frame_inputs(), self.drift_is_meaningful, self.report)

    @cached_property
    def encoded_reference(self) -> np.ndarray | None:
        """The reference's frames after H.264 (measure/seen.py): what the codec costs by itself."""
        return encoded(self.reference.frames, len(self.workloads))

    @property
    def prediction_line(self) -> str | None:
        """How far recorded frames are from the reference, where there are any and the reference has been rendered."""
        if (recorded := self.workload.recorded_frames) is None or "reference" not in vars(self):
            return None
        return recorded_line(self.reference.frames, recorded)

    @property
    def drift_is_meaningful(self) -> bool:
        """False under seeded weights: noise says nothing about a trained renderer."""
        return self.renderer.weights.kind != "seeded"

    def drift(self, frames: Tensor) -> Drift:
        """Drift of the whole sequence against the reference, of every face, and what a viewer sees of it."""
        faces = [(one.name, one.kp_driving) for one in self.workloads]
        return seen_drift(self.reference.frames, frames, self.encoded_reference, faces, self.drift_is_meaningful)

    @property
    def recorded_workload(self) -> schema.Workload:
        """What is rendered, as records name it."""
        name, digest = identity(self.workloads)
        return schema.Workload(name, self.workload.kp_driving.shape[0], self.renderer.config.image_size, digest)

    @cached_property
    def writer(self) -> RunWriter:
        """Where records go; the run's folder is made with the first record."""
        return RunWriter(
            self.options.results,
            read_environment(self.device),
            self.renderer.weights,
            self.recorded_workload,
            self.options.as_text() | self._conditions(),
            self.options.order_seed,
        )

    def finish(self) -> None:
        """Write the summary and the report, and mark the run complete."""
        write_html(self.writer.finish(summary_csv), self.writer.folder)

    def check(self) -> None:
        """Load what was asked for and try its folders, so that a mistake is said once and at once. Raises UserError."""
        _ = self.device, self.renderer, self.workloads
        for name in self.options.precisions:
            self.precision(name)
        require_writable(self.options.results)
        require_writable(self.options.cache)

    @property
    def started(self) -> bool:
        """Whether anything was recorded."""
        return "writer" in vars(self)
