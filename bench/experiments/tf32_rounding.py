"""Does TF32 round its operands to the nearest number of 10 mantissa bits, or cut them off? For a GPU.

    python bench/experiments/tf32_rounding.py

A 3 x 3 convolution that copies its input is computed on 1 + k / 8 of a TF32 step, first with the fraction in the
input, then in the weights, by PyTorch and by TensorRT, for few channels and for many: the builder need not choose TF32
arithmetic for both. To the nearest, half of the eight go up; cut off, none does. A picture shows the difference: what
is cut off makes every product smaller, an error that does not average out and stays still from frame to frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sadtrt_core.engine import tensorrt_api as api
from sadtrt_core.engine.build import BuildOptions, build_engine
from sadtrt_core.engine.session import EngineSession
from sadtrt_core.graph.export import OPSET

CHANNELS = (64, 512)
SIZE, PARTS = 64, 8
STEP = 2.0**-10  # Between neighbours of TF32 from 1 to 2.
Convolution = Callable[[Tensor, Tensor], Tensor]


def operands(channels: int, in_weights: bool) -> tuple[Tensor, Tensor]:
    """Input (1, C, H, W) and weights (C, C, 3, 3): a copy of values just above 1, the fraction by the channel."""
    fractions = 1 + STEP * (torch.arange(channels) % PARTS) / PARTS
    ones = torch.ones(channels)
    weights = torch.zeros(channels, channels, 3, 3)
    weights[torch.arange(channels), torch.arange(channels), 1, 1] = fractions if in_weights else ones
    values = ones if in_weights else fractions
    return values[None, :, None, None].expand(1, channels, SIZE, SIZE).contiguous(), weights


def by_pytorch(values: Tensor, weights: Tensor) -> Tensor:
    torch.backends.cudnn.allow_tf32 = True
    return F.conv2d(values.cuda(), weights.cuda(), padding=1).cpu()


def by_tensorrt(values: Tensor, weights: Tensor) -> Tensor:
    trt: Any = api.tensorrt_module()
    kernel = numpy_helper.from_array(weights.numpy(), "weights")
    shape = tuple(values.shape)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["values", "weights"], ["copies"], name="/conv", pads=[1, 1, 1, 1])],
        "copy",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("copies", TensorProto.FLOAT, shape)],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    built = build_engine(
        trt,
        model.SerializeToString(),
        label="tf32 rounding",
        input_shapes={"values": shape},
        tf32=True,
        options=BuildOptions(optimization_level=3),
    )
    session = EngineSession(trt, built.plan, torch.device("cuda"), cuda_graph=False)
    try:
        session.set_inputs({"values": values})
        session.execute()
        return torch.from_numpy(np.array(session.to_host()["copies"]))
    finally:
        session.close()


def describe(convolution: Convolution, channels: int) -> str:
    """How the two operands were rounded, from what came out."""
    found = []
    for in_weights in (False, True):
        values, weights = operands(channels, in_weights)
        steps = ((convolution(values, weights)[0, :PARTS, SIZE // 2, SIZE // 2] - 1) / STEP).tolist()
        shown = ", ".join(f"{step:g}" for step in steps)
        if any(step not in (0.0, 1.0) for step in steps):
            how = "not rounded to TF32"
        else:
            how = "cut off" if not any(steps) else "rounded to the nearest" if steps[-1] == 1 else "rounded some way"
        found.append(f"{'weights' if in_weights else 'input'} {how} ({shown})")
    return "; ".join(found)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU: PyTorch sees none")
    print(f"k = 0 to {PARTS - 1}, out of 1 + k/{PARTS} step comes 1 + so many steps:")
    for channels in CHANNELS:
        print(f"{channels} channels, PyTorch {torch.__version__}: {describe(by_pytorch, channels)}")
    trt = api.tensorrt_module()
    if isinstance(trt, api.Unavailable):
        raise SystemExit(trt.reason)
    for channels in CHANNELS:
        print(f"{channels} channels, TensorRT {api.version_text(trt)}: {describe(by_tensorrt, channels)}", flush=True)


if __name__ == "__main__":
    main()
