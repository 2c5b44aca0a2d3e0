"""TensorRT as a runner: the stage's engine from the cache, launched as a CUDA graph or layer by layer."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuildOptions
from sadtrt_core.engine.cache import Engine, discard, ensure_engine
from sadtrt_core.engine.job import BuildJob, build_job
from sadtrt_core.engine.plugin import PluginLibrary, load_plugin, plugin_absence
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.errors import EngineRefused, Unavailable
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.runners.base import Job, StageRunner


def tensorrt_absence(job: Job) -> Unavailable | None:
    """Why TensorRT cannot serve this job; None where it can."""
    if job.device.type != "cuda":
        return Unavailable(f"TensorRT runs on an NVIDIA GPU, not on {job.device.type}")
    if not torch.cuda.is_available():
        return Unavailable(
            "there is no CUDA device that torch can use: install a CUDA build of torch and the NVIDIA driver"
        )
    trt = api.tensorrt_module()
    if isinstance(trt, Unavailable):
        return trt
    refused = api.runtime_absence(trt, torch.cuda.get_device_capability(job.device))
    if refused is not None:
        return refused
    if importlib.util.find_spec("pycuda") is None:
        return Unavailable("pycuda is not installed", "pip install pycuda")
    if job.stage.module is None:
        return Unavailable(f"stage {job.stage.name} has no engine of its own: it is made of the other stages")
    if job.precision.compute == "bfloat16":
        refused = api.bfloat16_absence(trt)
        if refused is not None:
            return refused
    if job.precision.quantize is not None and job.precision.quantize.type == "fp8":
        refused = api.float8_absence(trt, torch.cuda.get_device_capability(job.device))
        if refused is not None:
            return refused
    return _grid_sample_absence(job, trt)


def _grid_sample_absence(job: Job, trt: object) -> Unavailable | None:
    if job.grid_sample == "torch":
        return Unavailable("an engine cannot sample with PyTorch: use --grid-sample native, plugin or builtin")
    if job.grid_sample == "builtin":
        return api.builtin_grid_sample_absence(trt)
    if job.grid_sample == "plugin":
        return plugin_absence()
    return None


def engine_job(job: Job, options: BuildOptions) -> BuildJob:
    """The engine a runner of this job loads; exports the stage's graph into the cache. Raises as `build_job` does."""
    return build_job(
        job.renderer, job.stage, job.precision, job.grid_sample, job.batch, job.cache, options, job.calibration
    )


class TensorRTRunner(StageRunner):
    """The stage's engine as one CUDA graph.

    `activate` builds the engine where the cache has none, which takes minutes for the large stages; `report` is told
    why. Inputs are copied into the engine's own buffers on the runner's stream.
    """

    cuda_graph = True

    def __init__(self, job: Job, options: BuildOptions | None = None, report: Reporter = SILENT) -> None:
        super().__init__(job)
        self._options = options or BuildOptions(optimization_level=job.optimization_level)
        self._report = report
        self._session: EngineSession | None = None

    def activate(self) -> None:
        """Raises RuntimeError (BuildError where no engine can be built) with the reason."""
        reason = tensorrt_absence(self.job)
        if reason is not None:
            raise RuntimeError(f"{self.job.stage.name} {self.job.precision.name}: {reason}")
        build = engine_job(self.job, self._options)
        with torch.cuda.device(self.job.device):
            engine = ensure_engine(build, self._report)
            try:
                self._open(engine, build.plugin)
            except EngineRefused as error:
                # The key says that it fits, TensorRT disagrees: a new one settles it.
                self._report.log(f"{build.label}: rebuilding, because {error}")
                discard(engine)
                engine = ensure_engine(build, self._report)
                self._open(engine, build.plugin)
        self.engine_bytes = len(engine.plan)
        self.notes = (*self.job.calibration_notes, *engine.notes)

    def _open(self, engine: Engine, plugin: PluginLibrary | None) -> None:
        trt = api.tensorrt_module()
        assert not isinstance(trt, Unavailable)  # `activate` has asked.
        if plugin is not None:
            load_plugin(plugin, trt)  # The engine may come from the cache: nothing has loaded it yet.
        session = EngineSession(trt, engine.plan, self.job.device, self.cuda_graph)
        expected = {spec.name: spec.batched(self.job.batch) for spec in (*self.job.inputs, *self.job.outputs)}
        found = session.shapes()
        if found != expected:
            session.close()
            raise EngineRefused(f"the engine has the tensors {found}: expected {expected}")
        self._session, self.stream = session, session.stream

    def deactivate(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self.stream = None, None

    def _require_session(self) -> EngineSession:
        if self._session is None:
            raise RuntimeError(f"the TensorRT runner of stage {self.job.stage.name} is not active")
        return self._session

    def _bind(self, inputs: dict[str, Tensor]) -> None:
        self._require_session().set_inputs(inputs)

    def execute(self) -> None:
        self._require_session().execute()

    def fetch(self) -> dict[str, Tensor]:
        views = self._require_session().views()
        return {spec.name: views[spec.name] for spec in self.job.outputs}


class TensorRTEnqueueRunner(TensorRTRunner):
    """The same engine enqueued layer by layer: what the CUDA graph saves is the difference."""

    cuda_graph = False
