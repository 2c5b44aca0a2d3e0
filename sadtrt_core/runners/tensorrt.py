"""TensorRT as a runner: the stage's engine from the cache or a file, launched as a CUDA graph or layer by layer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.cache import Engine, Key, discard, ensure_engine, stored_engine
from sadtrt_core.engine.job import BuildJob, build_job, parse_file_name
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin, load_plugin, plugin_absence
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.errors import EngineRefused, Unavailable, UserError
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
    if job.grid_sample == "torch":
        return Unavailable("an engine cannot sample with PyTorch: use --grid-sample native, plugin or builtin")
    if job.grid_sample == "builtin":
        return api.builtin_grid_sample_absence(trt)
    if job.grid_sample == "plugin":
        return plugin_absence()
    return None


def engine_job(job: Job) -> BuildJob:
    """The engine a runner of this job loads; exports the stage's graph into the cache. Raises as `build_job` does."""
    level = job.optimization_level
    return build_job(
        job.renderer, job.stage, job.precision, job.grid_sample, job.batch, job.cache, level, job.calibration
    )


def engine_file_absence(path: Path, job: Job) -> Unavailable | None:
    """Why an engine of the cache cannot serve this job here, whatever precision it was built in; None where it can."""
    case, size = parse_file_name(path)
    asked = (job.stage.name, job.batch, job.renderer.config.image_size)
    if (case.stage, case.batch, size) != asked:
        return Unavailable(
            f"it is an engine of {case.stage} at batch {case.batch} and {size} px, where {asked[0]} at batch "
            f"{asked[1]} and {asked[2]} px is compared"
        )
    try:
        _, key = stored_engine(path)
    except UserError as error:
        return Unavailable(str(error))
    return tensorrt_absence(job) or _misfit(key)


def _misfit(key: Key) -> Unavailable | None:
    """Why an engine of that key does not belong on this machine; None where it does."""
    trt, (gpu, _) = api.tensorrt_module(), api.current_gpu()
    assert not isinstance(trt, Unavailable)  # `tensorrt_absence` has asked.
    here = (api.flavour(trt), api.version_text(trt), gpu)
    built = (key["flavour"], key["tensorrt"], key["gpu"])
    if built != here:
        words = [f"{flavour} {version} on {name}" for flavour, version, name in (built, here)]
        return Unavailable(f"it was built by {words[0]}, and here is {words[1]}: build it here")
    if key["plugin_sha256"] is not None and _plugin(key) is None:
        return Unavailable(
            "it was built with another GridSample3D plugin than the one that is built here: build both here"
        )
    return None


def _plugin(key: Key) -> PluginLibrary | None:
    """The plugin library that the engine was built with, where it is the one that is here."""
    found = find_plugin()
    return found if isinstance(found, PluginLibrary) and found.digest == key["plugin_sha256"] else None


class TensorRTRunner(StageRunner):
    """The stage's engine as one CUDA graph, or enqueued layer by layer: what the graph saves is the difference.

    `activate` builds the engine where the cache has none, which takes minutes for the large stages. An `engine_file`
    runs as it is; `engine_file_absence` has to have nothing against it. Inputs are copied into the engine's own buffers
    on the runner's stream.
    """

    def __init__(self, job: Job, cuda_graph: bool = True, engine_file: Path | None = None) -> None:
        super().__init__(job)
        self._cuda_graph, self._engine_file = cuda_graph, engine_file
        self._session: EngineSession | None = None

    def activate(self) -> None:
        """Raises RuntimeError (BuildError where no engine can be built) with the reason.

        UserError where TensorRT refuses an engine file, or it is none of the harness's.
        """
        if self._engine_file is not None:
            self._load_file(self._engine_file)
            return
        reason = tensorrt_absence(self.job)
        if reason is not None:
            raise RuntimeError(f"{self.job.stage.name} {self.job.precision.name}: {reason}")
        build = engine_job(self.job)
        with torch.cuda.device(self.job.device):
            engine = ensure_engine(build)
            try:
                self._open(engine, build.plugin)
            except EngineRefused:
                # The key says that it fits, TensorRT disagrees: a new one settles it.
                discard(engine)
                engine = ensure_engine(build)
                self._open(engine, build.plugin)
        self.notes = (*self.job.calibration_notes, *engine.notes)

    def _load_file(self, path: Path) -> None:
        engine, key = stored_engine(path)
        with torch.cuda.device(self.job.device):
            try:
                self._open(engine, _plugin(key))
            except EngineRefused as error:
                raise UserError(f"{path.name} cannot run {self.job.stage.name} here: {error}") from error
        self.notes = engine.notes

    def _open(self, engine: Engine, plugin: PluginLibrary | None) -> None:
        trt = api.tensorrt_module()
        assert not isinstance(trt, Unavailable)  # Its absence was asked for before.
        if plugin is not None:
            load_plugin(plugin, trt)  # The engine may come from the cache: nothing has loaded it yet.
        session = EngineSession(trt, engine.plan, self.job.device, self._cuda_graph)
        expected = {spec.name: spec.batched(self.job.batch) for spec in (*self.job.inputs, *self.job.outputs)}
        found = session.shapes()
        if found != expected:
            session.close()
            raise EngineRefused(f"the engine has the tensors {found}: expected {expected}")
        self._session, self.stream, self.engine_bytes = session, session.stream, len(engine.plan)

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
