"""SpadeNorm called through ctypes, random cases for it, and what it has to give: for plugin/check.py and the tests."""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from plugin.common.launching import Checked, replayed, worst_share
from plugin.common.timing import Timing
from sadtrt_core.engine.kernels import FEATURE_TYPES, KernelLaunch, workspace_bytes
from sadtrt_core.errors import BuildError

FUNCTION = "sadtrt_spade_norm"
LAYOUTS = ("linear", "channels_last")
FORMS = {"any": 0, "cluster": 1, "two kernels": 2}
#: The decoder's norms at 256 px: (channels, side) of the middle blocks, of up_0 and of up_1.
DECODER = ((512, 64), (512, 128), (256, 128), (256, 256), (64, 256))
#: Of the largest term, in roundings of fp32: what sums in another order may differ by.
ROUNDINGS = 32
INT8_SCALE = 0.0173  # most values fit, and some saturate


class SpadeProblem(ctypes.Structure):
    """SadtrtSpadeNorm of plugin/spade_norm/spade_norm.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "residual", "modulation", "sum", "y", "workspace")),
        *((name, ctypes.c_int64) for name in ("workspace_bytes", "batch", "channels", "height", "width")),
        *((name, ctypes.c_float) for name in ("epsilon", "slope")),
        *((name, ctypes.c_int32) for name in ("feature_type", "layout", "form", "upsample")),
        ("scale", ctypes.c_float),
    )


@dataclass(frozen=True)
class Case:
    """x and residual (N, C, H, W), or none, modulation (N, 2 C, H, W), all of one type, and the node's attributes.

    With a `scale` y is int8.
    """

    x: Tensor
    modulation: Tensor
    residual: Tensor | None = None
    epsilon: float = 1e-5
    slope: float = 0.2
    upsample: int = 1
    scale: float = 0.0

    def __str__(self) -> str:
        added = "" if self.residual is None else " with a residual"
        return f"{tuple(self.x.shape)} {str(self.x.dtype).removeprefix('torch.')}{added}, slope {self.slope}"


def spade_launch(kernels: ctypes.CDLL, case: Case, layout: str = "linear", form: str = "any") -> KernelLaunch:
    """A case's launch in a layout, on the device of its tensors, outputs of NaN; it gives y as (N, C, H, W).

    y in int8 is given as it is stored (`planes`). With a residual the tensor `sum` is written too.
    Behind the workspace's last byte lie four numbers more, of NaN.
    """
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    inputs = {"x": case.x, "residual": case.residual, "modulation": case.modulation}
    shape = (*case.x.shape[:2], *case.modulation.shape[2:])
    if not case.scale:
        y = case.x.new_full(shape, float("nan")).contiguous(memory_format=wanted)
    else:
        groups = (shape[0], shape[1] // 32, *shape[2:], 32) if layout == "channels_last" else shape
        y = torch.full(groups, -128, dtype=torch.int8, device=case.x.device)
    problem = SpadeProblem(
        **dict(zip(("batch", "channels", "height", "width"), shape, strict=True)),
        epsilon=case.epsilon,
        slope=case.slope,
        feature_type=FEATURE_TYPES[case.x.dtype],
        layout=LAYOUTS.index(layout),
        form=FORMS[form],
        upsample=case.upsample,
        scale=case.scale,
    )
    problem.workspace_bytes = workspace_bytes(kernels, FUNCTION, problem)
    return KernelLaunch(
        kernels,
        FUNCTION,
        problem,
        y,
        **{name: None if given is None else given.contiguous(memory_format=wanted) for name, given in inputs.items()},
        sum=None if case.residual is None else torch.full_like(case.x, float("nan"), memory_format=wanted),
        y=y,
        workspace=torch.full((problem.workspace_bytes // 4 + 4,), float("nan"), device=y.device),
    )


def planes(y: Tensor) -> Tensor:
    """y in int8 as (N, C, H, W), from memory of that shape or of (N, C / 32, H, W, 32)."""
    return y if y.dim() == 4 else y.movedim(-1, 2).flatten(1, 2)


def quantized(y: Tensor, scale: float) -> Tensor:
    """What ONNX's QuantizeLinear with a zero point of 0 makes of finite values: int8."""
    steps = y.float() / torch.tensor(scale, dtype=torch.float32, device=y.device)
    return steps.round().clamp(-128, 127).to(torch.int8)


def layouts_of(case: Case) -> tuple[str, ...]:
    """The layouts that the kernel takes a case in."""
    vectors = case.x.shape[1] % (32 if case.scale else 8) == 0
    return LAYOUTS if case.x.dtype != torch.float32 and vectors else LAYOUTS[:1]


def random_cases(count: int, most_pixels: int, most_channels: int, device: str = "cpu") -> Iterator[Case]:
    """Cases of every type, with and without a residual, with far means, constant planes and outliers among them."""
    chosen = random.Random(0)
    generator = torch.Generator(device).manual_seed(0)
    for number in range(count):
        dtype = tuple(FEATURE_TYPES)[number % 3]
        batch = chosen.choice((1, 1, 2, 3))
        channels = chosen.choice((chosen.randint(1, most_channels), 8 * chosen.randint(1, max(most_channels // 8, 1))))
        pixels = chosen.randint(1, most_pixels)
        height = chosen.choice((1, chosen.randint(1, pixels), int(pixels**0.5)))
        shape = (batch, channels, height, max(pixels // height, 1))
        x = torch.randn(shape, generator=generator, device=device)
        kind = number // 3 % 4
        if kind == 1:
            x = x + (1e4 if dtype == torch.float32 else 50.0)
        elif kind == 2:
            x = x.mean((2, 3), keepdim=True).expand(shape)
        elif kind == 3:
            x = torch.cat((x.flatten(2)[..., :1] * 1000, x.flatten(2)[..., 1:]), -1).reshape(shape)
        modulation = torch.randn((batch, 2 * channels, *shape[2:]), generator=generator, device=device)
        added = torch.randn(shape, generator=generator, device=device).to(dtype) if chosen.random() < 0.4 else None
        slope = chosen.choice((0.2, 1.0, 0.0))
        yield Case(x.to(dtype), modulation.to(dtype), added, chosen.choice((1e-5, 1e-3)), slope)


def normalised_input(case: Case) -> Tensor:
    """What is normalised: x, or its sum with the residual, rounded to the tensor's type."""
    return case.x if case.residual is None else (case.x.float() + case.residual.float()).to(case.x.dtype)


def reference(case: Case) -> tuple[Tensor, Tensor]:
    """y in fp64, and what fp32 arithmetic may differ from it by."""
    x = normalised_input(case).double()
    gamma, beta = case.modulation.double().chunk(2, 1)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    deviation = (variance + case.epsilon).sqrt()
    normalised = (x - mean) / deviation
    if case.upsample > 1:
        normalised = torch.nn.functional.interpolate(normalised, scale_factor=case.upsample, mode="nearest")
    y = torch.nn.functional.leaky_relu(normalised * (1 + gamma) + beta, case.slope)
    # Statistics are taken relative to the first element: its distance costs roundings too.
    first = normalised.flatten(2)[..., :1, None].abs()
    terms = (1 + gamma.abs()) * (1 + normalised.abs() + first) + beta.abs()
    return y, terms * ROUNDINGS * torch.finfo(torch.float32).eps / 2


def worst_excess(case: Case, y: Tensor, expected: tuple[Tensor, Tensor] | None = None) -> float:
    """Largest difference from the reference as a share of what is allowed."""
    return worst_share(y, *(expected or reference(case)))


def sums_right(case: Case, launch: KernelLaunch) -> bool:
    """Whether the written sum is x + residual, rounded once."""
    written = launch.tensors["sum"]
    return written is None or torch.equal(written, normalised_input(case))


def in_torch(x: Tensor, residual: Tensor | None, modulation: Tensor) -> tuple[Tensor, ...]:
    """What SadTalker's code computes, gamma and beta already one tensor: the sum, where there is one, and y."""
    total = x if residual is None else x + residual
    gamma, beta = modulation.chunk(2, 1)
    normalised = torch.nn.functional.instance_norm(total, eps=1e-5) * (1 + gamma) + beta
    y = torch.nn.functional.leaky_relu(normalised, 0.2)
    return (y,) if residual is None else (total, y)


def decoder_case(
    channels: int, side: int, dtype: torch.dtype, adds: bool, device: torch.device, seed: int, mean: float = 0.0
) -> Case:
    """A case of one of the decoder's shapes, with a residual where it `adds`."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randn((1, count, side, side), generator=generator, device=device)

    x, modulation = draw(channels) + mean, draw(2 * channels) * 0.3
    return Case(x.to(dtype), modulation.to(dtype), draw(channels).to(dtype) if adds else None)


def timings() -> Iterator[Timing]:
    """The decoder's norms at 256 px, with and without a residual."""
    linear = partial(spade_launch, layout="linear")
    half = {"kernel, channels last": partial(spade_launch, layout="channels_last"), "kernel, linear": linear}
    for dtype in (torch.float16, torch.float32):
        for channels, side in DECODER:
            for adds in (False, True):
                yield Timing(
                    "spade norm",
                    f"{channels} channels of {side} x {side}{', with a residual' if adds else ''}",
                    dtype,
                    channels * side**2 * dtype.itemsize * (6 if adds else 4),
                    partial(decoder_case, channels, side, dtype, adds),
                    half if dtype == torch.float16 else {"kernel, linear": linear},
                    worst_excess,
                    in_torch,
                    _arguments,
                )


def _arguments(case: Case, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    given = case.x, case.residual, case.modulation
    return tuple(None if t is None else t.to(dtype, memory_format=torch.channels_last) for t in given)


def forms() -> tuple[str, ...]:
    """The forms that this GPU has kernels for."""
    has_clusters = torch.cuda.get_device_capability() >= (9, 0)
    return ("any", "cluster", "two kernels") if has_clusters else ("any", "two kernels")


def fits_on_cluster(launch: KernelLaunch) -> bool:
    """Whether the launch, of the form of one kernel, was queued; False where no cluster of this GPU holds a slice."""
    try:
        launch()
    except BuildError as error:
        if "no cluster of this GPU" in str(error):
            return False
        raise
    return True


def on_gpu(case: Case) -> Case:
    """The case's tensors copied to the GPU."""
    residual = None if case.residual is None else case.residual.cuda()
    return replace(case, x=case.x.cuda(), modulation=case.modulation.cuda(), residual=residual)


def decoder_cases() -> Iterator[Case]:
    """The shapes that are timed, with and without a residual, about zero and about a far mean."""
    device = torch.device("cuda")
    for channels, side in DECODER:
        for dtype, mean in ((torch.float16, 0.0), (torch.float32, 1e4), (torch.bfloat16, 3.0)):
            for adds in (False, True):
                yield decoder_case(channels, side, dtype, adds, device, channels + side, mean)


def check(kernels: ctypes.CDLL, count: int, quick: bool) -> Iterator[Checked | str]:
    pixels, channels = (600, 24) if quick else (20_000, 80)
    cases = random_cases(count, pixels, channels, "cpu" if quick else "cuda")
    for case in cases if quick else itertools.chain(cases, decoder_cases()):
        expected, given = reference(case), on_gpu(case)
        for layout, form in itertools.product(layouts_of(case), forms()):
            first, second = (spade_launch(kernels, given, layout, form) for _ in range(2))
            if form == "cluster" and not fits_on_cluster(first):
                continue
            y, again = first(), second()
            kind = f"{str(case.x.dtype).removeprefix('torch.')}, {layout}, {form}"
            yield Checked(kind, str(case), worst_excess(case, y, expected))
            if not sums_right(given, first):
                yield f"{case}, {kind}: the sum is not x + residual"
            if not torch.equal(y, again):
                yield f"{case}, {kind}: a second run gave other bits"
            if not first.tensors["workspace"][-4:].isnan().all():
                yield f"{case}, {kind}: the kernel wrote beyond its workspace"
            in_int8 = replace(given, scale=INT8_SCALE)
            if layout in layouts_of(in_int8):
                third = spade_launch(kernels, in_int8, layout, form)
                if not torch.equal(planes(third()), quantized(y, INT8_SCALE)):
                    yield f"{case}, {kind}: int8 is not y quantized"
    if not quick:
        yield from check_graph(kernels)


def check_graph(kernels: ctypes.CDLL) -> Iterator[str]:
    """The same bits from a replayed CUDA graph, in which norms of several shapes follow one another."""
    shapes = (64, False), (33, True), (128, True)
    cases = [decoder_case(64, side, torch.float16, adds, torch.device("cuda"), side) for side, adds in shapes]
    for form in forms():
        first, second = ([spade_launch(kernels, case, "channels_last", form) for case in cases] for _ in range(2))
        for failure in replayed(first, [launch() for launch in second]):
            yield f"{failure}, {form}"


def timings_of_forms() -> Iterator[Timing]:
    """What bench/ times, and in half the form of two kernels by itself."""
    for timing in timings():
        layouts = ("channels_last", "linear") if timing.dtype == torch.float16 else ()
        two = {f"two kernels, {layout}": partial(spade_launch, layout=layout, form="two kernels") for layout in layouts}
        yield replace(timing, kernels={**timing.kernels, **two})
