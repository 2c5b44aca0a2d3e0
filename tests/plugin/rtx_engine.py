"""Run by test_plugin_build.py in a process of its own: load the plugin into TensorRT for RTX and build an engine.

    rtx_engine.py LIBRARY TYPE CHANNELS PADDING
    rtx_engine.py LIBRARY GRAPH

Prints one JSON object. The graph is that of a file, for a batch of one, or a convolution, GridSample3D with 16 grids a
volume, and a convolution.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper

from sadtrt_core.engine.plugin import PluginLibrary, load_plugin, read_plugin
from sadtrt_core.errors import UserError

#: The smallest, usual and largest shape of each input.
Shapes = dict[str, list[tuple[int, ...]]]


class Messages(trt.ILogger):
    """Keeps TensorRT's errors."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(message)


def graph(feature_type: int, channels: int, padding: int) -> bytes:
    generator = np.random.default_rng(0)
    weights = [
        helper.make_tensor(name, feature_type, shape, generator.standard_normal(shape).astype(np.float32).ravel())
        for name, shape in (("before", (channels, channels, 1, 1, 1)), ("after", (channels, channels, 1, 1, 1)))
    ]
    attributes = {"interpolation": 0, "padding": padding, "align_corners": 0, "plugin_version": "1"}
    nodes = [
        helper.make_node("Conv", ["volume", "before"], ["features"]),
        helper.make_node("GridSample3D", ["features", "grid"], ["sampled"], **attributes),
        helper.make_node("Conv", ["sampled", "after"], ["output"]),
    ]
    inputs = [
        helper.make_tensor_value_info("volume", feature_type, ["n", channels, 4, 8, 8]),
        helper.make_tensor_value_info("grid", TensorProto.FLOAT, ["grids", 4, 8, 8, 3]),
    ]
    outputs = [helper.make_tensor_value_info("output", feature_type, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "sampler", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    return bytes(model.SerializeToString())


def sampler(type_name: str, channels: int, padding: int) -> tuple[bytes, Shapes]:
    feature_type = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[type_name]
    shapes = {"volume": (channels, 4, 8, 8), "grid": (4, 8, 8, 3)}
    batches = {"volume": (1, 2, 4), "grid": (16, 32, 64)}
    profile = {name: [(batch, *shape) for batch in batches[name]] for name, shape in shapes.items()}
    return graph(feature_type, channels, padding), profile


def stored(path: Path) -> tuple[bytes, Shapes]:
    model = onnx.load(path)
    sizes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    }
    return path.read_bytes(), {name: [tuple(size)] * 3 for name, size in sizes.items()}


def build(library: PluginLibrary, content: bytes, shapes: Shapes) -> dict[str, object]:
    messages = Messages()
    builder = trt.Builder(messages)
    load_plugin(library, trt)
    load_plugin(library, trt)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(content):
        return {"parsed": False, "errors": messages.errors}
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, smallest_to_largest in shapes.items():
        profile.set_shape(name, *smallest_to_largest)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return {
        "parsed": True,
        "output_shape": list(network.get_output(0).shape),
        "output_type": str(network.get_output(0).dtype),
        "engine_bytes": 0 if engine is None else engine.nbytes,
        "errors": messages.errors,
    }


def main() -> None:
    library = read_plugin(Path(sys.argv[1]))
    assert isinstance(library, PluginLibrary), library
    given = sampler(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])) if len(sys.argv) > 3 else stored(Path(sys.argv[2]))
    try:
        print(json.dumps(build(library, *given)))
    except UserError as error:
        print(json.dumps({"refused": str(error)}))


if __name__ == "__main__":
    main()
