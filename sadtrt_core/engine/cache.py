"""Engines on disk, each beside a key that says in plain JSON what it was made of.

`<cache>/engines/<stage>-<precision>-<grid>-b<batch>-<size>-<digest>.engine` and `.json`. An engine is used only where
its key is the one asked for and its bytes are those that were written; else it is rebuilt, and the reason is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sadtrt_core.codec import json_digest
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuiltEngine, build_engine
from sadtrt_core.engine.job import BuildJob, sampler_case, sampler_fault
from sadtrt_core.engine.plugin import load_plugin
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.errors import BuildError, Unavailable, UserError
from sadtrt_core.files import code_digest, keep_file, locked, read_file
from sadtrt_core.progress import SILENT, Reporter

KEY_VERSION = 2
#: Bytes of an engine and of a timing cache; the largest seen have half a gigabyte and ten megabytes.
_RECORD_LIMIT, _PLAN_LIMIT, _TIMING_LIMIT = 1 << 20, 8 << 30, 1 << 28
_LONGEST = 1e9  # Seconds of a build.
#: Of the code that was loaded.
_CODE = code_digest("engine")
Key = dict[str, Any]
Builder = Callable[[Any, BuildJob, bytes, Reporter], BuiltEngine]


@dataclass(frozen=True)
class Engine:
    """An engine that is ready to load. `seconds` is how long its build took, whenever that was."""

    path: Path
    plan: bytes
    seconds: float
    notes: tuple[str, ...]


def engine_key(job: BuildJob, trt: Any, gpu: tuple[str, str]) -> Key:
    """Everything an engine depends on, as plain data; any change of it is another engine.

    `gpu` has the name and the compute capability of the GPU that the engine is built on; it runs on no other kind.
    """
    name, capability = gpu
    level, tf32 = job.optimization_level, job.precision.tf32
    options = {"optimization_level": level, "workspace_mb": api.WORKSPACE_MB, "tf32": tf32}
    return {
        "key_version": KEY_VERSION,
        "builder_sha256": _CODE,
        "graph_sha256": hashlib.sha256(job.graph.read_bytes()).hexdigest(),
        "inputs": {tensor: list(shape) for tensor, shape in job.input_shapes},
        "options": options,
        # Under it a builder takes no TF32 tactics, whatever it is told.
        "tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        "tensorrt": api.version_text(trt),
        "flavour": api.flavour(trt),
        "plugin_sha256": job.plugin.digest if job.plugin is not None else None,
        "gpu": name,
        "compute_capability": capability,
    }


def ensure_engine(job: BuildJob, report: Reporter = SILENT, builder: Builder = build_engine) -> Engine:
    """The job's engine, from the cache or built now.

    `report` gets one line for whatever a person should know: why an engine is rebuilt, that another process is building
    it, what was left unchecked. Two processes that want the same engine build it once. Raises BuildError.
    """
    trt = api.tensorrt_module()
    if isinstance(trt, Unavailable):
        raise BuildError(f"{job.label}: {trt}")
    key = engine_key(job, trt, api.current_gpu())
    path = job.cache / "engines" / f"{job.file_stem}-{json_digest(key)[:12]}.engine"
    found = _read(path, key)
    if isinstance(found, Engine):
        return found
    with locked(path, waiting=lambda: report.log(f"{job.label}: waiting for another process that builds it")):
        found = _read(path, key)  # Another process may have built it meanwhile.
        if isinstance(found, Engine):
            return found
        if path.is_dir():
            raise BuildError(f"{job.label}: {path} is a folder where the engine should be: move it away")
        reason = found or _why_stale(job, key, path)
        if reason:
            report.log(f"{job.label}: rebuilding, because {reason}")
        return _build(job, trt, key, path, report, builder)


def stored_engine(path: Path) -> tuple[Engine, Key]:
    """An engine of a cache by its file alone, with the key it was built for.

    Raises UserError in one sentence for a file that `ensure_engine` did not write or that changed since.
    """
    if not path.is_file():
        raise UserError(f"there is no engine {path}")
    record = _read_record(path.with_suffix(".json"))
    if isinstance(record, str):
        raise UserError(f"{path} is no engine of this harness: {record}")
    found = _read(path, record["key"])
    if not isinstance(found, Engine):
        raise UserError(f"{path} cannot be used: {found}")
    if not path.stem.endswith(f"-{json_digest(record['key'])[:12]}"):
        raise UserError(f"{path} cannot be used: its name is not the one that belongs to its key {path.stem}.json")
    return found, record["key"]


def discard(engine: Engine) -> None:
    """Forget an engine that TensorRT refuses to load, so that the next `ensure_engine` builds it again."""
    engine.path.with_suffix(".json").unlink(missing_ok=True)


def _build(job: BuildJob, trt: Any, key: Key, path: Path, report: Reporter, builder: Builder) -> Engine:
    if job.plugin is not None:
        load_plugin(job.plugin, trt)
    unchecked = None if job.sampler is None else _check_sampler(job.sampler, trt, report, builder)
    # Each row has a timing cache of its own: TensorRT 8.6 refuses most that come from another graph's regions.
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{job.file_stem}-{key['flavour']}-{key['tensorrt']}-{key['gpu']}").strip("-")
    timing = path.parent / f"{name}.timing" if api.keeps_timing_cache(trt) else None
    timed = kept_timings(timing, report)
    built = builder(trt, job, timed, report)
    notes = built.notes
    if unchecked is not None:
        notes = (f"its sampler was not checked against PyTorch: {unchecked}", *notes)
    for note in notes:
        report.log(f"{job.label}: {note}")
    # The key last: without it the engine counts as foreign.
    keep_file(path, built.plan)
    record = {
        "key": key,
        "engine_sha256": hashlib.sha256(built.plan).hexdigest(),
        "engine_bytes": len(built.plan),
        "build_seconds": round(built.seconds, 3),
        "notes": list(notes),
    }
    keep_file(path.with_suffix(".json"), json.dumps(record, indent=2))
    if timing is not None and built.timing_cache:
        try:
            keep_file(timing, built.timing_cache)
        except UserError as error:
            report.log(f"{job.label}: what was timed is not kept: {error}")
    return Engine(path, built.plan, built.seconds, notes)


def kept_timings(path: Path | None, report: Reporter) -> bytes:
    """A timing cache; nothing where there is none that can be read, which is said."""
    if path is None or not os.path.lexists(path):
        return b""
    try:
        return read_file(path, _TIMING_LIMIT)
    except UserError as error:
        report.log(f"building without what was timed before: {error}")
        return b""


def _read(path: Path, key: Key) -> Engine | str:
    """The engine at `path`, or why it cannot be used; an empty reason where there is none."""
    if not os.path.lexists(path):
        return ""
    record = _read_record(path.with_suffix(".json"))
    if isinstance(record, str):
        return f"{path.name} is foreign: {record}"
    if record["key"] != key:
        return f"{path.name} is foreign: {_difference(record['key'], key)}"
    try:
        if 0 <= record["engine_bytes"] < os.path.getsize(path) <= _PLAN_LIMIT:
            return f"{path.name} is foreign: it has more than the {record['engine_bytes']} bytes that were built"
        plan = read_file(path, _PLAN_LIMIT)
    except (UserError, OSError) as error:
        return str(error)
    if len(plan) != record["engine_bytes"]:
        return f"{path.name} is truncated: {len(plan)} of {record['engine_bytes']} bytes"
    if hashlib.sha256(plan).hexdigest() != record["engine_sha256"]:
        return f"{path.name} is foreign: its bytes are not those that were built"
    return Engine(path, plan, float(record["build_seconds"]), tuple(record["notes"]))


def _read_record(path: Path) -> dict[str, Any] | str:
    """A key file's content, or what is wrong with it."""
    try:
        record = json.loads(read_file(path, _RECORD_LIMIT))
    except (ValueError, RecursionError) as error:
        return f"its key {path.name} cannot be read ({error})" if path.exists() else f"its key {path.name} is missing"
    kinds: dict[str, type | tuple[type, ...]] = {
        "key": dict,
        "engine_sha256": str,
        "engine_bytes": int,
        "build_seconds": (int, float),
        "notes": list,
    }
    whole = isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in kinds.items())
    if (
        not whole
        or not 0 <= record["build_seconds"] <= _LONGEST
        or not all(isinstance(one, str) for one in record["notes"])
    ):
        return f"its key {path.name} lacks what a key has ({', '.join(kinds)})"
    return record


def _why_stale(job: BuildJob, key: Key, path: Path) -> str:
    """How the newest engine of the same name differs from the one asked for; empty where there is none."""
    pattern = re.compile(re.escape(job.file_stem) + r"-[0-9a-f]{12}\.json")
    others = [other for other in path.parent.glob("*.json") if pattern.fullmatch(other.name)]
    for other in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True):
        record = _read_record(other)
        if not isinstance(record, str):
            return f"{other.with_suffix('.engine').name} is stale: {_difference(record['key'], key)}"
    return ""


def _difference(old: Key, new: Key) -> str:
    """Which parts of two keys differ, digests by name alone."""
    parts = [
        f"{name} changed" if name.endswith("sha256") else f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    return "; ".join(parts) or "nothing that is known"


def _check_sampler(job: BuildJob, trt: Any, report: Reporter, builder: Builder) -> Unavailable | None:
    """Run the one-node sampler engine once and compare it with PyTorch.

    Returns why it could not be run (no GPU, say), or None where it agrees. Raises BuildError where it does not.
    """
    if not torch.cuda.is_available():
        return Unavailable("there is no GPU")
    refused = api.runtime_absence(trt, torch.cuda.get_device_capability())
    if refused is not None:
        return refused
    try:
        import pycuda.driver  # noqa: F401
    except ImportError:
        return Unavailable("pycuda is not installed", "pip install pycuda")
    plan = ensure_engine(job, report, builder).plan
    with contextlib.closing(EngineSession(trt, plan, torch.device("cuda"), cuda_graph=False)) as session:
        session.set_inputs(sampler_case())
        session.execute()
        samples = session.views()["samples"].cpu()
    fault = sampler_fault(samples, job.precision.compute)
    if fault:
        raise BuildError(f"{job.label}: {fault}: choose another --grid-sample")
    return None
