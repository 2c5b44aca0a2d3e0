"""An engine file as a side of a comparison: what its name says, what is refused, and the runner that loads it."""

from __future__ import annotations

from pathlib import Path

import torch

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.cache import Key, stored_engine
from sadtrt_core.engine.job import parse_file_name
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.errors import EngineRefused, Unavailable, UserError
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.tensorrt import TensorRTRunner, tensorrt_absence


def engine_file_absence(path: Path, job: Job) -> Unavailable | None:
    """Why the engine cannot serve this job here; None where it can."""
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


class EngineFileRunner(TensorRTRunner):
    """Runs one engine file as a CUDA graph; `engine_file_absence` has to have nothing against it."""

    def __init__(self, job: Job, path: Path) -> None:
        super().__init__(job)
        self._path = path

    def activate(self) -> None:
        """Raises UserError where TensorRT refuses the engine, or the file is none of the harness's."""
        engine, key = stored_engine(self._path)
        with torch.cuda.device(self.job.device):
            try:
                self._open(engine, None if key["plugin_sha256"] is None else _plugin(key))
            except EngineRefused as error:
                raise UserError(f"{self._path.name} cannot run {self.job.stage.name} here: {error}") from error
        self.engine_bytes = len(engine.plan)
        self.notes = engine.notes
