"""A stage's typed graph as a folder that other tools read: ONNX, example inputs, reference outputs, commands.

Inputs and outputs are in Polygraphy's own formats, so that `polygraphy run` compares whatever runs the graph with
PyTorch in fp32.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from polygraphy.comparator import RunResults
from polygraphy.json import save_json
from polygraphy.logger import G_LOGGER
from torch import Tensor

from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.errors import UserError
from sadtrt_core.files import file_start
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.graph.plugin_nodes import PLUGIN_NODES, PLUGIN_VERSION
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import RUNNERS
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session

MODEL, INPUTS, OUTPUTS, ENGINE, README = "model.onnx", "inputs.json", "outputs.json", "model.engine", "README.txt"
_FIRST_LINE = "Written by sadtrt export"
_README = f"""{{first}}: {{what}}, {{weights}}.

{MODEL} carries its own types; its batch is dynamic. {INPUTS} has the inputs of one call, {OUTPUTS} what
PyTorch makes of them in fp32, both as Polygraphy reads them. The tolerances below are four times what the graph's
roundings cost on a CPU, at least 1e-4 of an output's largest value.
{{said}}
In this folder:
{{commands}}
TensorRT 8.6 builds no strongly typed network: there `sadtrt build` gives the graph's types as layer precisions, which
trtexec would choose otherwise.
"""
#: How much more than the types' roundings cost on the examples a runtime may differ, since it sums in another order.
_ALLOWED = 4.0
#: What every runtime may differ by, of an output's largest value: float32 sums of thousands of products.
_LEAST = 1e-4


def export_stage_folder(
    session: Session, stage: str, precision: str, batch: int, out: Path, engine: bool
) -> tuple[str, ...]:
    """Write a stage's graph, examples and commands to `out`, whole or not at all, in place of an earlier export.

    Returns what a person should know of it, a sentence each without its full stop. Raises UserError for a stage without
    a graph, a folder that holds anything else, and for `engine` where TensorRT can build none; BuildError where the
    build fails.
    """
    case = session.case(stage, "tensorrt", precision, batch)
    job = session.plain_job(case)
    if job.precision.quantize is not None:
        job = dataclasses.replace(job, calibration=session.calibration)  # An exported graph need not run here.
    if job.stage.module is None:
        raise UserError(f"stage {stage} has no graph of its own: export the stages that it is made of")
    _require_ours(out)
    if engine and (missing := session.unavailable(case)) is not None:
        raise UserError(
            f"--engine: {stage} in {precision} cannot be built: {missing}; leave it out for the graph alone"
        )
    # A name of its own beside the target, so that the move at the end is one step.
    made = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}")
    made.mkdir(parents=True)
    try:
        said = _fill(made, session, job, engine)
        if out.exists():
            shutil.rmtree(out)  # Empty, or an earlier export.
        os.replace(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return said


def _require_ours(out: Path) -> None:
    """Raise UserError unless `out` is absent, empty, or holds an earlier export and nothing else."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"--out {out} is no folder: name one that does not exist yet")
    files = {path.name for path in out.iterdir()} if out.exists() else set()
    known = {MODEL, INPUTS, OUTPUTS, ENGINE, README}
    foreign = sorted(name for name in files - known if not name.startswith("libsadtrt_plugin_"))
    if files and (foreign or README not in files or _FIRST_LINE.encode() not in file_start(out / README, 200)):
        what = foreign[0] if foreign else sorted(files)[0]
        raise UserError(f"--out {out} holds {what}, which no export wrote: name a new or empty folder")


def _fill(folder: Path, session: Session, job: Job, engine: bool) -> tuple[str, ...]:
    graph = typed_graph(job.renderer, job.stage, job.precision, job.grid_sample, job.cache, job.calibration)
    (folder / MODEL).write_bytes(graph)
    inputs = session.inputs(job)
    reference = _computed("pytorch", dataclasses.replace(job, precision=PRECISIONS["fp32"]), inputs)
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        save_json([_arrays(inputs)], str(folder / INPUTS))
        results = RunResults()
        results.add([_arrays(reference)], runner_name="pytorch-fp32")
        results.save(str(folder / OUTPUTS))
    # By ONNX Runtime, on the CPU and in ordinary operators, which every machine has.
    anywhere = dataclasses.replace(job, device=torch.device("cpu"), grid_sample="native")
    rounded = _computed("onnxruntime", anywhere, {name: tensor.cpu() for name, tensor in inputs.items()})
    allowed = {
        name: max(_ALLOWED * (rounded[name] - value).abs().max().item(), _LEAST * value.abs().max().item())
        for name, value in reference.items()
    }
    if engine:
        (folder / ENGINE).write_bytes(ensure_engine(engine_job(job), session.report).plan)
    nodes = sorted({node.op_type for node in onnx.load_from_string(graph).graph.node} & PLUGIN_NODES)
    library = _library(folder) if nodes else None
    said = _sentences(job, nodes, library)
    commands = _commands(job, allowed, not nodes, library, engine)
    weights = job.renderer.weights
    text = _README.format(
        first=_FIRST_LINE,
        what=f"stage {job.stage.name} in {job.precision.name}, {job.renderer.config.image_size} pixels",
        weights=f"weights {weights.kind} ({weights.name})",
        said="".join(f"{one}.\n" for one in said),
        commands="".join(f"\n# {what}\n{command}\n" for what, command in commands),
    )
    (folder / README).write_text(text)
    return said


def _computed(runner: str, job: Job, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with RUNNERS[runner].create(job) as active:
        return {name: tensor.cpu().clone() for name, tensor in active.infer(inputs).items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _library(folder: Path) -> str | None:
    """The name of the plugin library for the TensorRT that is here, copied along; None where none is built."""
    found = find_plugin()
    if not isinstance(found, PluginLibrary):
        return None
    shutil.copyfile(found.path, folder / found.path.name)
    return found.path.name


def _sentences(job: Job, nodes: list[str], library: str | None) -> tuple[str, ...]:
    """What a person has to know before running the graph."""
    said = list(job.calibration_notes)
    if nodes:
        where = f"is here as {library}" if library else "is not built here: `sadtrt build-plugin`"
        said.append(
            f"The graph has nodes of the plugin GridSample3D, version {PLUGIN_VERSION} ({', '.join(nodes)}), whose "
            f"library {where}. ONNX Runtime cannot run them: --grid-sample native exports ordinary operators"
        )
    elif job.stage.samples:
        said.append(
            f"The graph samples volumes in the form {job.grid_sample}, without our plugin: --grid-sample plugin "
            "exports the one that TensorRT runs faster"
        )
    if job.precision.compute == "bfloat16":
        said.append("ONNX Runtime's CPU provider has no bfloat16 convolutions: only a GPU runs this graph")
    return tuple(said)


def _commands(
    job: Job, allowed: Mapping[str, float], plain: bool, library: str | None, engine: bool
) -> list[tuple[str, str]]:
    """What can be done with the folder's files, and the command for it; `plain`: the graph has no node of ours."""
    against = f"--load-inputs {INPUTS} --load-outputs {OUTPUTS} --atol "
    against += " ".join(f"{name}:{value:.3g}" for name, value in allowed.items())
    shapes = ",".join(f"{spec.name}:{'x'.join(map(str, spec.batched(job.batch)))}" for spec in job.inputs)
    plugins, static = (f" --plugins ./{library}", f" --staticPlugins=./{library}") if library else ("", "")
    tf32 = job.precision.tf32
    build = f"polygraphy run {MODEL} --trt --strongly-typed{' --tf32' if tf32 else ''}{plugins} {against}"
    timed = f"trtexec --onnx={MODEL} --stronglyTyped{'' if tf32 else ' --noTF32'} --shapes={shapes}{static}"
    commands = [("look at it (Netron draws it)", f"polygraphy inspect model {MODEL}")]
    if plain and job.precision.compute != "bfloat16":
        commands.append(("run it on ONNX Runtime and compare", f"polygraphy run {MODEL} --onnxrt {against}"))
    commands += [("build it with TensorRT 10 or later, run it and compare", build), ("time that", timed)]
    if engine:
        commands.append(("run the engine and compare", f"polygraphy run {ENGINE} --trt{plugins} {against}"))
        commands.append(("time the engine", f"trtexec --loadEngine={ENGINE}{static}"))
    return commands
