"""The kernel's index and weight functions, compiled for the host, against torch.nn.functional.grid_sample in fp64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from on_host import PLUGIN, compiled

from plugin.grid_sample_3d.cases import MODES, Case, compared_points, random_cases, reference, worst_excess
from sadtrt_core.errors import BuildError
from sadtrt_core.sampling.kernel import SamplingProblem, sampling_problem


class HostSampling:
    """The host reference library: the kernel's index and weight functions on the CPU, fp32 in linear layout."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._sample = library.sadtrt_grid_sample_3d_host
        self._sample.argtypes = [ctypes.POINTER(SamplingProblem), ctypes.c_char_p, ctypes.c_int64]

    def sample(self, problem: SamplingProblem) -> None:
        message = ctypes.create_string_buffer(512)
        if self._sample(ctypes.byref(problem), message, len(message)):
            raise BuildError(message.value.decode())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostSampling:
    source = PLUGIN / "grid_sample_3d" / "host_reference.cpp"
    return HostSampling(compiled(source, tmp_path_factory.mktemp("host"), "-Wall", "-Wextra", "-Werror"))


def run(host: HostSampling, case: Case) -> torch.Tensor:
    output = torch.full((case.grid.shape[0], case.volume.shape[1], *case.grid.shape[1:-1]), float("nan"))
    problem = sampling_problem(tuple(case.volume.shape), tuple(case.grid.shape), **case.how)
    problem.volume, problem.grid = case.volume.data_ptr(), case.grid.data_ptr()
    problem.output = output.data_ptr()
    host.sample(problem)
    return output


def test_random_cases_agree_with_pytorch_in_fp64(host: HostSampling) -> None:
    worst, compared = 0.0, 0
    for case in random_cases(2000, (torch.float32,), most_voxels=20_000, most_points=150):
        excess = worst_excess(case, run(host, case), reference(case))
        assert excess <= 1.0, f"{excess:.2f} times the bound: {case}"
        worst = max(worst, excess)
        compared += int(compared_points(case).sum())
    print(f"worst difference {worst:.3f} of the bound over {compared} points")
    assert compared > 100_000


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_one_voxel_along_each_axis(host: HostSampling, mode: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(7)
    for shape in ((1, 1, 1), (1, 5, 4), (5, 1, 4), (5, 4, 1), (1, 1, 6), (6, 1, 1)):
        volume = torch.randn((1, 3, *shape), generator=generator)
        grid = torch.rand((2, 3, 4, 5, 3), generator=generator) * 6 - 3
        case = Case(volume, grid, mode)
        assert worst_excess(case, run(host, case), reference(case)) <= 1.0, case


@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_undefined_coordinates_clip_to_the_first_voxel_as_on_cuda(host: HostSampling, padding: str) -> None:
    # CUDA's fmax(NaN, 0) is 0; the CPU's std::max keeps NaN and ends at the last voxel, so PyTorch on the CPU
    # cannot be the reference here.
    volume = torch.arange(24, dtype=torch.float32).reshape(1, 1, 2, 3, 4)
    grid = torch.full((1, 1, 1, 1, 3), float("nan"))
    for interpolation in ("bilinear", "nearest"):
        assert run(host, Case(volume, grid, MODES[0] | {"mode": interpolation, "padding_mode": padding})).item() == 0.0


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, -1e30])
def test_undefined_and_far_coordinates_are_zero_under_zeros_padding(
    host: HostSampling, interpolation: str, value: float
) -> None:
    volume = torch.ones(1, 2, 3, 4, 5)
    grid = torch.zeros(1, 1, 1, 3, 3)
    grid[0, 0, 0].fill_diagonal_(value)
    assert torch.equal(run(host, Case(volume, grid, MODES[0] | {"mode": interpolation})), torch.zeros(1, 2, 1, 1, 3))


def test_infinite_features_spread_exactly_as_in_pytorch(host: HostSampling) -> None:
    generator = torch.Generator().manual_seed(11)
    for number, mode in enumerate(MODES):
        volume = torch.randn((1, 2, 4, 5, 6), generator=generator)
        volume[0, 0, number % 4, 2, 3] = float("inf")
        volume[0, 1, 3, 4, 5] = float("nan")
        grid = torch.rand((1, 9, 9, 9, 3), generator=generator) * 2.6 - 1.3
        case = Case(volume, grid, mode)
        output, expected = run(host, case), reference(case)
        usable = compared_points(case).expand_as(output)
        assert torch.equal(output.isnan()[usable], expected.isnan()[usable]), case
        assert torch.equal(output.isinf()[usable], expected.isinf()[usable]), case


def test_an_identity_grid_returns_the_volume_exactly(host: HostSampling) -> None:
    volume = torch.randn(1, 3, 4, 8, 16, generator=torch.Generator().manual_seed(3))
    axes = [(torch.arange(size, dtype=torch.float32) * 2 + 1) / size - 1 for size in volume.shape[2:]]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack((x, y, z), dim=-1)[None].contiguous()
    assert torch.equal(run(host, Case(volume, grid, MODES[0])), volume)


def test_each_grid_of_a_shared_volume_reads_its_own_volume(host: HostSampling) -> None:
    volume = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1, 1).expand(3, 1, 2, 2, 2).contiguous()
    output = run(host, Case(volume, torch.zeros(12, 1, 1, 1, 3), MODES[0]))
    assert output.flatten().tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4


def test_a_grid_batch_that_does_not_divide_is_refused_by_name(host: HostSampling) -> None:
    with pytest.raises(BuildError, match="grid's batch of 3 is not a multiple of the volume's batch of 2"):
        run(host, Case(torch.zeros(2, 1, 2, 2, 2), torch.zeros(3, 1, 1, 1, 3), MODES[0]))


def test_an_empty_volume_is_refused_and_an_empty_grid_is_not(host: HostSampling) -> None:
    with pytest.raises(BuildError, match="volume axis 3 has size 0"):
        run(host, Case(torch.zeros(1, 1, 2, 0, 2), torch.zeros(1, 1, 1, 1, 3), MODES[0]))
    empty = run(host, Case(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 0, 4, 4, 3), MODES[0]))
    assert empty.shape == (1, 1, 0, 4, 4)


def test_shapes_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"volume \(N, C, D, H, W\)"):
        sampling_problem((1, 2, 3, 4), (1, 1, 1, 3))
    with pytest.raises(ValueError, match="'cubic' is unknown"):
        sampling_problem((1, 1, 2, 2, 2), (1, 1, 1, 1, 3), mode="cubic")
