"""The kernel source itself, compiled for the host: every type, layout and group size against PyTorch in fp64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from on_host import kernels_on_host

from plugin.grid_sample_3d.cases import MODES, Case, random_cases, reference, worst_excess
from sadtrt_core.engine.kernels import KernelLaunch, workspace_bytes
from sadtrt_core.errors import BuildError
from sadtrt_core.renderer.sampling import sample_in_half, sample_volume
from sadtrt_core.sampling.kernel import FUNCTION, kernel_launch, sampling_problem

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("grid_sample_3d", tmp_path_factory.mktemp("kernel"))


def run(
    kernel: ctypes.CDLL,
    case: Case,
    layout: str = "linear",
    group: int = 0,
    packing: str = "never",
    wide: bool = False,
) -> torch.Tensor:
    """The output as (N*k, C, Do, Ho, Wo); what the kernel does not write stays NaN, and so does a workspace.

    `packing` other than never lends a workspace, `wide` asks for 64-bit offsets.
    """
    shapes = tuple(case.volume.shape), tuple(case.grid.shape)
    size = workspace_bytes(kernel, FUNCTION, sampling_problem(*shapes, case.volume.dtype, layout, **case.how))
    # Whatever is written beyond the workspace's last byte lies in the four numbers that follow.
    memory = torch.full((size // 4 + 4,), float("nan"))
    lent = memory[:-4] if size and packing != "never" else None
    choices = {"layout": layout, "packing": packing, "wide_offsets": wide, "channels_per_thread": group}
    output = kernel_launch(kernel, case.volume, case.grid, lent, **case.how, **choices)()
    assert memory[-4:].isnan().all()
    return output


def test_random_cases_in_every_type_and_layout(kernel: ctypes.CDLL) -> None:
    for number, case in enumerate(random_cases(360, DTYPES, most_voxels=5000, most_points=100)):
        expected = reference(case)
        for layout in ("linear", "channels_last"):
            output = run(kernel, case, layout, (0, 4, 8, 16)[number % 4])
            excess = worst_excess(case, output, expected)
            assert excess <= 1.0, f"case {number}, {layout}: {excess:.3g} times the bound: {case}"


@pytest.mark.parametrize("wide", [False, True])
def test_random_cases_with_a_workspace(kernel: ctypes.CDLL, wide: bool) -> None:
    for number, case in enumerate(random_cases(240, DTYPES, most_voxels=1000, most_points=700)):
        output = run(kernel, case, packing="always", wide=wide)
        excess = worst_excess(case, output, reference(case))
        assert excess <= 1.0, f"case {number}: {excess:.3g} times the bound: {case}"


def test_all_layouts_and_group_sizes_give_the_same_bits(kernel: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(2)
    volume = torch.randn((2, 19, 3, 5, 7), generator=generator).half()
    case = Case(volume, torch.rand((4, 2, 9, 11, 3), generator=generator) * 2.4 - 1.2, MODES[0])
    outputs = [run(kernel, case, "linear", group) for group in (4, 8, 16)] + [run(kernel, case, "channels_last")]
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


def test_the_shorter_way_of_plain_problems_gives_the_same_bits(kernel: ctypes.CDLL) -> None:
    # 64-bit offsets always take the general way.
    for number, case in enumerate(random_cases(240, DTYPES, most_voxels=2000, most_points=200)):
        if (case.how["mode"], case.how["padding_mode"]) != ("bilinear", "zeros"):
            continue
        for layout, packing in (("linear", "never"), ("linear", "always"), ("channels_last", "never")):
            short, general = (run(kernel, case, layout, packing=packing, wide=wide) for wide in (False, True))
            assert torch.equal(short, general), f"case {number}, {layout}, packing {packing}: {case}"


@pytest.mark.parametrize("grids", [1, 2, 3, 5, 7])
def test_each_grid_reads_its_own_volume(kernel: ctypes.CDLL, grids: int) -> None:
    numbers = torch.arange(13, dtype=torch.float32)
    volume = numbers.reshape(13, 1, 1, 1, 1).expand(13, 4, 2, 2, 2).contiguous()
    for packing in ("never", "always"):
        output = run(kernel, Case(volume, torch.zeros(13 * grids, 1, 1, 1, 3), MODES[0]), packing=packing)
        assert torch.equal(output[:, 3].flatten(), numbers.repeat_interleave(grids))


def test_more_samples_than_one_launch_holds(kernel: ctypes.CDLL) -> None:
    volume = torch.arange(2, dtype=torch.float32).reshape(2, 1, 1, 1, 1).expand(2, 1, 2, 2, 2).contiguous()
    output = run(kernel, Case(volume, torch.zeros(140_000, 1, 1, 1, 3), MODES[0])).flatten()
    assert torch.equal(output, torch.arange(2.0).repeat_interleave(70_000))


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_that_are_not_finite_reach_only_the_samples_that_read_them(
    kernel: ctypes.CDLL, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(4)
    volume = torch.randn((1, 9, 4, 5, 6), generator=generator)
    volume[0, ::2, 1, 2, 3] = float("inf")
    volume[0, 1::2, 3, 4, 5] = float("nan")
    grid = torch.rand((2, 9, 9, 9, 3), generator=generator) * 2.6 - 1.3
    case = Case(volume.to(dtype), grid, MODES[0])
    expected = reference(case)
    assert 0 < expected.isfinite().sum() < expected.numel()
    for layout, packing in (("linear", "never"), ("linear", "always"), ("channels_last", "never")):
        output = run(kernel, case, layout, packing=packing)
        assert torch.equal(output.isfinite(), expected.isfinite())
        assert worst_excess(case, output, expected) <= 1.0


def test_a_bad_launch_is_refused_with_a_sentence(kernel: ctypes.CDLL) -> None:
    problem = sampling_problem((1, 1, 2, 2, 2), (1, 1, 1, 1, 3))
    launch = KernelLaunch(kernel, FUNCTION, problem, torch.empty(0))
    with pytest.raises(BuildError, match="a null pointer"):
        launch()
    problem.padding = 7
    with pytest.raises(BuildError, match="padding 7 is not 0"):
        launch()
    problem.padding, problem.layout = 0, 1
    problem.volume, problem.grid, problem.output = 8, 16, 16
    with pytest.raises(BuildError, match="aligned to 16 bytes"):
        launch()


@pytest.mark.parametrize("layout", ["linear", "channels_last"])
def test_a_launch_samples_with_each_call(kernel: ctypes.CDLL, layout: str) -> None:
    generator = torch.Generator().manual_seed(7)
    volume = torch.randn((1, 13, 3, 5, 7), generator=generator).half()
    case = Case(volume, torch.rand((4, 2, 9, 11, 3), generator=generator) * 2.4 - 1.2, MODES[0])
    launch = kernel_launch(kernel, case.volume, case.grid, layout=layout)
    for _ in range(2):
        samples = launch()
        assert worst_excess(case, samples, reference(case)) <= 1.0
        samples.fill_(float("nan"))


def test_a_workspace_is_asked_for_by_the_volume_alone_and_never_more_for_a_smaller_one(kernel: ctypes.CDLL) -> None:
    def size(shape: tuple[int, ...], grids: int = 3, interpolation: str = "bilinear", layout: str = "linear") -> int:
        problem = sampling_problem(shape, (grids, 4, 4, 4, 3), torch.float16, layout, interpolation)
        return workspace_bytes(kernel, FUNCTION, problem)

    # Whether three grids can share two volumes is not its business: TensorRT asks with the largest of each.
    assert size((2, 4, 16, 64, 64)) == size((2, 4, 16, 64, 64), 64) >= 2 * 4 * 16 * 64 * 64 * 2
    assert size((2, 4, 16, 64, 63)) <= size((2, 4, 16, 64, 64))
    assert size((1, 32, 16, 64, 64), layout="channels_last") == size((1, 1, 16, 64, 64)) == 0
    assert size((1, 4, 16, 64, 64), interpolation="nearest") == 0


def test_a_workspace_that_is_too_small_or_misaligned_is_left_alone(kernel: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(9)
    volume = torch.randn((1, 4, 3, 5, 7), generator=generator)
    case = Case(volume, torch.rand((8, 9, 9, 11, 3), generator=generator) * 2.4 - 1.2, MODES[0])
    size = workspace_bytes(kernel, FUNCTION, sampling_problem(tuple(volume.shape), tuple(case.grid.shape)))
    memory = torch.full((size + 32,), 7, dtype=torch.uint8)
    for lent in (memory[: size - 1], memory[4 : size + 4]):
        launch = kernel_launch(kernel, volume, case.grid, lent, packing="always")
        assert worst_excess(case, launch(), reference(case)) <= 1.0
    assert (memory == 7).all()


@pytest.mark.parametrize("shape", [(2, 9, 16, 64, 64), (1, 4, 1, 7, 33), (1, 2, 3, 1, 1)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_coordinates_are_the_arithmetic_that_pytorch_and_graphs_have(
    kernel: ctypes.CDLL, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(3)
    volume = torch.randn(shape, generator=generator).to(dtype)
    grid = torch.rand((2 * shape[0], 3, 9, 11, 3), generator=generator) * 2.2 - 1.1
    grid[0, 0, 0, :4] = torch.tensor([[1.0, -1.0, 1.0], [1e9, -1e9, 0.0], [float("nan"), 0.0, 0.0], [-1.0, 1.0, -1.0]])
    case = Case(volume, grid, MODES[0] | {"half_coordinates": True})
    expected = sample_in_half(volume, grid)
    for layout, packing in (("linear", "never"), ("linear", "always"), ("channels_last", "never")):
        output = run(kernel, case, layout, packing=packing)
        torch.testing.assert_close(output, expected, atol=2e-6, rtol=1e-6 if dtype == torch.float32 else 2.0**-7)
    if shape[4] == 64:
        in_float = sample_volume(volume.float(), grid.half().float())
        assert (expected.float() - in_float).abs()[1:].max() > 0.02, "that of a thirty-second of a voxel"


def test_half_coordinates_are_for_the_renderers_way_of_sampling_alone(kernel: ctypes.CDLL) -> None:
    volume, grid = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 1, 1, 3)
    for how in MODES[1:]:
        with pytest.raises(BuildError, match="half coordinates are for trilinear sampling with zeros outside"):
            run(kernel, Case(volume, grid, how | {"half_coordinates": True}))
