"""Precisions as data: what computes in which type, which parts stay fp32 and why.

A precision is applied once, to a stage's ONNX graph (graph/typed.py), which then carries its own types. The PyTorch
runner reads the same declaration. Beside the built-in ones there are plans, read from files (plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

ComputeType = Literal["float32", "float16", "bfloat16"]
TORCH_TYPES: dict[ComputeType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
#: Stands among node patterns for the coordinate slice: everything between a sampling grid and the nearest convolution.
COORDINATES = "coordinates"
#: Stands among what a plan keeps for the picture slice: the last convolution and everything between it and the picture.
PICTURE = "picture"
#: int8, or eight-bit floats with three bits of mantissa (E4M3, largest 448).
QuantizedType = Literal["int8", "fp8"]
#: How the name of a plan's file ends; a precision of such a name is read from that file.
PLAN_SUFFIX = ".toml"


@dataclass(frozen=True)
class Quantization:
    """Which convolutions compute on operands of eight bits: those that `nodes` match and `excluded` does not.

    Shell-style patterns over the generator's ONNX node names. A node that the precision keeps in fp32 is not quantized.
    """

    type: QuantizedType
    nodes: tuple[str, ...]
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Precision:
    """One way to compute the renderer.

    `compute` is the type of everything that is not kept. `keep_coordinates` keeps fp32 on the backward slice from every
    sampling grid to the nearest convolution (coordinates, softmax, mask-weighted sum), `keep_picture` on that from
    the rendered picture to the last convolution, that one included. `split_k` splits convolutions that sum very
    many products, for kernels with fp16 accumulation (graph/split_k.py; PyTorch accumulates in fp32). `keep_nodes`
    are shell-style patterns over the generator's ONNX node names that stay fp32 as well, for plans found by search.
    `only_nodes`, where given, are patterns of the only nodes that compute in `compute`, all others being fp32;
    COORDINATES among them is the coordinate slice. `tf32` lets fp32 matrix arithmetic round its operands to TF32.
    `quantize` puts some convolutions into eight bits, with ranges calibrated for the weights at hand
    (graph/quantize.py). `operators` puts the plugin's operators in place of what TensorRT computes slowly, in graphs
    whose sampler is the plugin's (graph/typed.py); PyTorch and other samplers are not affected. `as_shipped` leaves
    every setting of PyTorch as it is found: convolutions round to TF32 where a GPU has it, matrix products do not.
    `half_coordinates` does a sampler's arithmetic in half: positions, floor and weights, where it is float otherwise,
    whatever type the coordinates were rounded to (renderer/sampling.py).
    """

    name: str
    compute: ComputeType
    why: str
    tf32: bool = False
    keep_coordinates: bool = False
    keep_picture: bool = False
    keep_nodes: tuple[str, ...] = ()
    only_nodes: tuple[str, ...] | None = None
    quantize: Quantization | None = None
    split_k: bool = False
    operators: bool = False
    as_shipped: bool = False
    half_coordinates: bool = False

    @property
    def rounds_grids(self) -> bool:
        """Whether sampling grids themselves are of the compute type."""
        return not self.keep_coordinates and (self.only_nodes is None or COORDINATES in self.only_nodes)

    @property
    def names_nodes(self) -> bool:
        """Whether single nodes of a graph are named, which nothing but a graph has."""
        return bool(self.keep_nodes) or self.only_nodes is not None or self.quantize is not None

    @property
    def torch_type(self) -> torch.dtype:
        """The compute type as PyTorch names it."""
        return TORCH_TYPES[self.compute]


#: The main convolutions of the decoder's six middle blocks, a fifth of the generator's arithmetic. What comes after
#: shows eight bits most: no norm follows it. What modulates them stays half because it reads one tensor with several
#: convolutions, which TensorRT 8.6 may merge. The motion network stays half because 8.6 has no int8 for what lies
#: between its convolutions.
INT8 = Quantization("int8", nodes=("/decoder/G_middle_?/conv_?/*",))
#: What a search may quantize: no map that convolutions share, and nothing of the last block, which no norm follows.
CANDIDATES = Quantization("int8", ("/decoder/G_middle_?/*", "/decoder/up_0/*"), excluded=("*/mlp_shared/*",))
_MIXED = Precision(
    "fp16-mixed",
    "float16",
    "convolutions half; coordinates, softmax and the mask-weighted sum fp32, because a coordinate rounded to half "
    "moves the picture by up to 1/32 of a feature pixel; the last convolution and sigmoid fp32, because half has steps "
    "of 1/8 of a uint8 level near white; the mask's and the occlusion's sums of up to 87,808 products in parts "
    "(split-K), because TensorRT 8.6's kernels accumulate them in fp16; with the plugin, norms in one kernel each with "
    "float statistics",
    keep_coordinates=True,
    keep_picture=True,
    split_k=True,
    operators=True,
)
PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp32", "float32", "the reference: TF32 off everywhere"),
        Precision("default", "float32", "PyTorch as shipped: no setting of its own", as_shipped=True),
        Precision(
            "fp16-half-coordinates",
            "float16",
            "fp16 with a sampler that computes positions and weights in half too, as the public GridSample3D plugin "
            "does: a position near the edge of 64 voxels is then known to 1/32 of a voxel",
            half_coordinates=True,
        ),
        Precision("tf32", "float32", "fp32 graph whose matrix operands may be rounded to 10 mantissa bits", tf32=True),
        Precision(
            "fp16", "float16", "everything half, coordinates too, but sampled by float arithmetic, as PyTorch does"
        ),
        _MIXED,
        Precision("bf16", "bfloat16", "everything bfloat16: fp32's range with 8 bits of precision"),
        replace(
            _MIXED,
            name="int8",
            why="fp16-mixed with the convolutions that bear it in eight bits, calibrated on another motion",
            quantize=INT8,
        ),
        replace(
            _MIXED,
            name="fp8",
            why="the convolutions of int8 on eight-bit floats instead (E4M3), with the same ranges",
            quantize=replace(INT8, type="fp8"),
        ),
    )
}
