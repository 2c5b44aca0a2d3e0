"""SpadeNorm's launcher and kernels, compiled for the host, against PyTorch in fp64: every type, layout and form."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from on_host import kernels_on_host

from plugin.spade_norm.cases import (
    FUNCTION,
    Case,
    layouts_of,
    planes,
    quantized,
    random_cases,
    reference,
    spade_launch,
    sums_right,
    worst_excess,
)
from sadtrt_core.engine.kernels import KernelLaunch, workspace_bytes
from sadtrt_core.errors import BuildError

H100_BYTES = 232448


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("spade_norm", tmp_path_factory.mktemp("spade"))


@pytest.fixture
def kernel(library: ctypes.CDLL) -> ctypes.CDLL:
    library.set_device(132, H100_BYTES)
    return library


def check(kernel: ctypes.CDLL, case: Case, layout: str, form: str = "any") -> KernelLaunch:
    launch = spade_launch(kernel, case, layout, form)
    excess = worst_excess(case, launch(), reference(case))
    assert excess <= 1.0, f"{layout}, {form}: {excess:.3g} times the bound: {case}"
    assert sums_right(case, launch), f"{layout}, {form}: {case}"
    assert launch.tensors["workspace"][-4:].isnan().all()
    return launch


@pytest.mark.parametrize("form", ["cluster", "two kernels"])
def test_random_cases_in_every_type_and_layout(kernel: ctypes.CDLL, form: str) -> None:
    for case in random_cases(72, most_pixels=500, most_channels=18):
        for layout in layouts_of(case):
            check(kernel, case, layout, form)


@pytest.mark.parametrize(("processors", "shared_bytes"), [(1, H100_BYTES), (4, H100_BYTES), (132, 15_000)])
def test_clusters_of_every_size(kernel: ctypes.CDLL, processors: int, shared_bytes: int) -> None:
    # One block, a few, and as many as hold the slice between them.
    kernel.set_device(processors, shared_bytes)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((1, 24, 44, 45), generator=generator).half()
    case = Case(x, torch.randn((1, 48, 44, 45), generator=generator).half())
    for layout in layouts_of(case):
        check(kernel, case, layout, "cluster")


@pytest.mark.parametrize("form", ["any", "cluster", "two kernels"])
@pytest.mark.parametrize(("channels", "side"), [(64, 9), (64, 47), (128, 20), (192, 3)])
def test_rows_of_whole_cache_lines(kernel: ctypes.CDLL, form: str, channels: int, side: int) -> None:
    generator = torch.Generator().manual_seed(channels + side)
    for dtype in (torch.float16, torch.bfloat16):
        x, residual = (torch.randn((2, channels, side, side + 1), generator=generator).to(dtype) for _ in range(2))
        modulation = torch.randn((2, 2 * channels, side, side + 1), generator=generator).to(dtype)
        for case in (Case(x, modulation), Case(x, modulation, residual)):
            check(kernel, case, "channels_last", form)


@pytest.mark.parametrize(("channels", "height", "width"), [(64, 9, 12), (128, 33, 20), (24, 7, 5), (3, 10, 2)])
def test_what_is_normalised_is_upsampled_first(kernel: ctypes.CDLL, channels: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    for dtype in (torch.float16, torch.float32):
        x, residual = (torch.randn((2, channels, height, width), generator=generator).to(dtype) for _ in range(2))
        modulation = torch.randn((2, 2 * channels, 2 * height, 2 * width), generator=generator).to(dtype)
        for case in (Case(x, modulation, upsample=2), Case(x, modulation, residual, upsample=2)):
            for layout in layouts_of(case):
                check(kernel, case, layout)


@pytest.mark.parametrize("form", ["cluster", "two kernels"])
def test_a_mean_of_ten_thousand_deviations_costs_no_digits(kernel: ctypes.CDLL, form: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn((1, 2, 33, 31), generator=generator) + 1e4
    case = Case(x, torch.zeros((1, 4, 33, 31)), slope=1.0)
    y = check(kernel, case, "linear", form).result.double()
    assert (y - reference(case)[0]).abs().max() < 2e-6
    assert y.std((2, 3), correction=0).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_constant_plane_becomes_beta(kernel: ctypes.CDLL, dtype: torch.dtype) -> None:
    x = torch.full((1, 8, 9, 16), 1234.5, dtype=dtype)
    modulation = torch.randn((1, 16, 9, 16), generator=torch.Generator().manual_seed(3)).to(dtype)
    case = Case(x, modulation, slope=1.0)
    for layout in layouts_of(case):
        for form in ("cluster", "two kernels"):
            assert torch.equal(spade_launch(kernel, case, layout, form)(), modulation[:, 8:])


@pytest.mark.parametrize("form", ["cluster", "two kernels"])
def test_two_runs_give_the_same_bits(kernel: ctypes.CDLL, form: str) -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((2, 24, 19, 23), generator=generator).half()
    case = Case(x, torch.randn((2, 48, 19, 23), generator=generator).half(), x.flip(3))
    for layout in layouts_of(case):
        first, second = (spade_launch(kernel, case, layout, form)() for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", ["cluster", "two kernels"])
def test_what_is_not_finite_spoils_its_own_channel_only(kernel: ctypes.CDLL, form: str) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn((2, 16, 8, 8), generator=generator)
    x[0, 3, 2, 5], x[1, 9, 0, 0] = float("inf"), float("nan")
    case = Case(x.half(), torch.randn((2, 32, 8, 8), generator=generator).half())
    expected = torch.ones(2, 16, dtype=torch.bool)
    expected[0, 3] = expected[1, 9] = False
    for layout in layouts_of(case):
        finite = spade_launch(kernel, case, layout, form)().isfinite().flatten(2)
        assert torch.equal(finite.all(2), expected)
        assert torch.equal(finite.any(2), expected)


@pytest.mark.parametrize("form", ["cluster", "two kernels"])
@pytest.mark.parametrize(("channels", "height", "width"), [(96, 5, 7), (32, 8, 16), (24, 16, 9)])
def test_int8_is_the_halves_quantized_bit_by_bit(
    kernel: ctypes.CDLL, form: str, channels: int, height: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(channels)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x, residual = (torch.randn((2, channels, height, width), generator=generator).to(dtype) for _ in range(2))
        for added, upsample in ((None, 1), (residual, 1), (residual, 2)):
            if upsample == 2 and form == "cluster":
                continue
            pixels = (height * upsample, width * upsample)
            modulation = torch.randn((2, 2 * channels, *pixels), generator=generator).to(dtype)
            case = Case(x, modulation, added, upsample=upsample)
            for layout in layouts_of(replace(case, scale=1.0)):
                y = spade_launch(kernel, case, layout, form)()
                # A power of two puts values of half exactly between two steps.
                for scale in (2.0**-6, 0.0173, 1e3):
                    launch = spade_launch(kernel, replace(case, scale=scale), layout, form)
                    assert torch.equal(planes(launch()), quantized(y, scale)), (layout, dtype, upsample, scale)
                    assert sums_right(case, launch)
                    assert scale < 1 or not planes(launch.result).any()


def test_the_int8_reference_is_onnx_quantize_linear() -> None:
    values = torch.tensor([-3.0, -1.0, -0.75, -0.25, 0.25, 0.75, 1.25, 63.5, 63.75, 1e9]).half().float()
    names = ("y", "scale", "zero")
    node = onnx.helper.make_node("QuantizeLinear", names, ["q"])
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8)
    inputs = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in zip(names, types, strict=True)]
    output = onnx.helper.make_tensor_value_info("q", onnx.TensorProto.INT8, None)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "q", inputs, [output]), opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"y": values.numpy(), "scale": np.array(0.5, np.float32), "zero": np.array(0, np.int8)}
    (expected,) = session.run(None, given)
    assert quantized(values, 0.5).tolist() == expected.tolist()


def test_the_workspace_never_shrinks_when_a_size_grows(kernel: ctypes.CDLL) -> None:
    def size(*shape: int) -> int:
        batch, channels, height, width = shape
        x = torch.zeros(shape).half()
        case = Case(x, torch.zeros(batch, 2 * channels, height, width).half())
        return workspace_bytes(kernel, FUNCTION, spade_launch(kernel, case).problem)

    assert 0 < size(1, 8, 16, 16) <= size(1, 16, 16, 16) <= size(2, 16, 16, 16) <= size(2, 16, 32, 16)


def test_what_cannot_be_done_is_refused_with_a_sentence(kernel: ctypes.CDLL) -> None:
    case = Case(torch.zeros(1, 8, 64, 64).half(), torch.zeros(1, 16, 64, 64).half(), torch.zeros(1, 8, 64, 64).half())
    launch = spade_launch(kernel, case, "channels_last", "two kernels")
    launch.problem.workspace_bytes -= 1
    with pytest.raises(BuildError, match=r"SpadeNorm: a workspace of [0-9]+ bytes, aligned to 16, is needed"):
        launch()
    launch.problem.form = 1
    kernel.set_device(132, 7000)
    with pytest.raises(BuildError, match="no cluster of this GPU holds a slice of 64 x 64 pixels"):
        launch()
    launch.problem.x += 2
    with pytest.raises(BuildError, match="aligned to 16 bytes"):
        launch()
    launch.problem.sum = None
    with pytest.raises(BuildError, match="residual and sum go together"):
        launch()
    launch.problem.channels = 12
    with pytest.raises(BuildError, match="in multiples of 8, not 12 channels"):
        launch()
    launch.problem.channels, launch.problem.scale = 8, 0.5
    with pytest.raises(BuildError, match="int8 of channels-last tensors wants a multiple of 32 channels, not 8"):
        launch()
    launch.problem.scale = float("nan")
    with pytest.raises(BuildError, match="scale nan is not 0"):
        launch()
    launch.problem.scale, launch.problem.feature_type = 0.0, 3
    with pytest.raises(BuildError, match=r"feature type 3 is not 0 \(fp32\), 1 \(fp16\) or 2 \(bf16\)"):
        launch()
