"""What only a GPU shows of the frame's engine: its decoder stays in one layout from convolution to convolution."""

from __future__ import annotations

import pytest
import torch

from bench.studies.engine_layers import between_convolutions, described, read_layers
from sadtrt_core.case import Case
from sadtrt_core.config import RunConfig
from sadtrt_core.engine.cache import ensure_engine
from sadtrt_core.engine.plugin import PluginLibrary, built_plugin, find_plugin, load_plugin
from sadtrt_core.engine.tensorrt_api import tensorrt_module
from sadtrt_core.errors import Unavailable
from sadtrt_core.runners.tensorrt import engine_job
from sadtrt_core.session import Session

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(isinstance(tensorrt_module(), Unavailable), reason=f"needs TensorRT: {tensorrt_module()}"),
    pytest.mark.skipif(not isinstance(find_plugin(), PluginLibrary), reason=f"needs the plugin: {find_plugin()}"),
]


def test_no_reformat_and_no_region_is_left_between_convolutions_of_the_decoder() -> None:
    session = Session(RunConfig())
    job = session.job(Case("frame", "tensorrt", "fp16-mixed", "plugin", 1))
    # An engine that is in the cache is not built here, which would load it.
    load_plugin(built_plugin(), tensorrt_module())
    layers = read_layers(tensorrt_module(), ensure_engine(engine_job(job)).plan)
    assert sum(layer.convolves and "/decoder/" in layer.name for layer in layers) > 40
    offenders = [described(layer) for layer in between_convolutions(layers, "/decoder/")]
    assert not offenders, "\n".join(offenders)
