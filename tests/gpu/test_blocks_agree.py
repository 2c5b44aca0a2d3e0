"""Where an engine leaves what its types explain: every block's output beside its simulation, in one engine.

    pytest tests/gpu/test_blocks_agree.py -s -k fp16-mixed       # or int8; a table is printed

Half sums take an engine some dB from its types, more in longer sums: the first block that they take a decibel is named
with its kernels. What is much farther off is a fault. SADTRT_BLOCKS_GRID_SAMPLE=native builds the graph without the
plugin's operators.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import onnx
import pytest
import torch
from block_outputs import block_tensors, first_parting, kernels_of, output_of, seen_by, with_outputs

from sadtrt_core.accuracy.torch_graph import rounded_graph, run_graph
from sadtrt_core.config import RunConfig
from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.job import stored_graph
from sadtrt_core.engine.plugin import load_plugin
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.errors import Unavailable
from sadtrt_core.graph.export import typed_graph
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

#: More decibels than half sums cost any block.
FAULT_DB = 20.0


@pytest.mark.parametrize("precision", ["fp16-mixed", "int8"])
def test_no_block_of_the_engine_is_farther_from_its_types_than_half_sums_take_it(precision: str) -> None:
    trt = api.tensorrt_module()
    if isinstance(trt, Unavailable):
        pytest.skip(str(trt))
    sampling = os.environ.get("SADTRT_BLOCKS_GRID_SAMPLE", "auto")
    session = Session(RunConfig(precisions=(precision,), grid_sample=sampling, optimization_level=2))
    job = session.job(session.case("generator", "tensorrt", precision))
    inputs = session.frame_inputs()[-1]
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}

    def typed(how: str, grid_sample: str) -> onnx.ModelProto:
        given = (job.renderer, job.stage, session.precision(how), grid_sample, job.cache, job.calibration)
        return onnx.load_from_string(typed_graph(*given))  # type: ignore[arg-type]

    def simulated(how: str) -> tuple[onnx.ModelProto, dict[str, torch.Tensor]]:
        return rounded_graph(typed(how, "native"), shapes, job.device)

    shipped, (by_types, constants) = typed(precision, job.grid_sample), simulated(precision)
    blocks = block_tensors(shipped, by_types)
    assert len(blocks) > 10
    values: dict[str, dict[str, torch.Tensor]] = {"types": {}, "exact": {}}
    run_graph(by_types, {**inputs, **constants}, seen_by(blocks, values["types"]))  # type: ignore[arg-type]
    exact, constants = simulated("fp32")
    run_graph(exact, {**inputs, **constants}, seen_by(blocks, values["exact"]))  # type: ignore[arg-type]

    content = with_outputs(shipped, blocks).SerializeToString(deterministic=True)
    build = replace(engine_job(job), graph=stored_graph(content, job.cache, "blocks"))
    if build.plugin is not None:
        load_plugin(build.plugin, trt)
    plan = ensure_engine(build).plan
    engine = EngineSession(trt, plan, job.device, cuda_graph=False)
    engine.set_inputs(inputs)
    engine.execute()
    made = {block: engine.views()[output_of(block)].clone() for block in blocks}
    torch.cuda.synchronize()
    parted, lines = first_parting(values["exact"], values["types"], made)
    print(f"{precision}, {job.grid_sample}", *lines, sep="\n")
    inspector = api.create_runtime(trt).deserialize_cuda_engine(plan).create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON), strict=False)["Layers"]
    engine.close()
    if parted is not None:
        print(f"{parted} is the first that parts from its types; its layers: {kernels_of(layers, parted)}")
    faulty, _ = first_parting(values["exact"], values["types"], made, FAULT_DB)
    assert faulty is None, f"{faulty} is far from its types; its layers: {kernels_of(layers, str(faulty))}"
