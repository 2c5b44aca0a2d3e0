"""The kernels of dense motion and split convolutions, compiled for the host: every type and layout against PyTorch."""

from __future__ import annotations

import ctypes

import pytest
import torch
from on_host import kernels_on_host

from plugin.dense_motion import cases as motion
from plugin.fold_depth import cases as fold
from plugin.picture_conv import cases as picture
from plugin.split_sum import cases as split
from sadtrt_core.engine.kernels import KernelLaunch
from sadtrt_core.errors import BuildError
from sadtrt_core.renderer.layers import coordinate_grid


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("split_sum", tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def folding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("fold_depth", tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("dense_motion", tmp_path_factory.mktemp("kernel"))


def test_taps_are_added_in_every_type_layout_and_form(adding: ctypes.CDLL) -> None:
    for number, case in enumerate(split.random_cases(108, most_size=9)):
        excess = split.worst_excess(case, split.sum_launch(adding, case)())
        assert excess <= 1.0, f"case {number}: {excess:.3g} times the bound: {case}"


@pytest.mark.parametrize(("scale", "side"), [(2, 5), (4, 6)])
def test_phases_give_the_convolution_of_an_upsampled_volume(adding: ctypes.CDLL, scale: int, side: int) -> None:
    # Of a kernel of ones with the depth's second tap alone: sums of 3 x 3 of the upsampled map, in whole numbers.
    volume = torch.randint(-9, 10, (4, 1, side, side)).float()
    weights = torch.ones(3)
    phases = [[weights[0], weights[1:].sum()], [0.0, weights.sum()], [weights[:2].sum(), weights[2]]]
    along = torch.tensor(phases if scale > 2 else [phases[0], phases[2]])
    kernel = torch.einsum("pi,qj->pqij", along, along).flatten(0, 1)[:, None]
    taps = torch.nn.functional.conv2d(volume, torch.cat((0 * kernel, kernel, 0 * kernel)), padding=1)
    case = split.Case(taps, torch.zeros(1), how=split.Attributes(4, (3, 1, 1), scale))
    upsampled = torch.nn.functional.interpolate(volume, scale_factor=scale, mode="nearest")
    expected = torch.nn.functional.conv2d(upsampled, torch.ones((1, 1, 3, 3)), padding=1)
    assert torch.equal(split.sum_launch(adding, case)(), expected)


def test_a_relu_makes_no_nan_of_minus_infinity(adding: ctypes.CDLL) -> None:
    case = split.Case(torch.full((1, 1, 1, 1), float("-inf")), torch.zeros(1), how=split.Attributes(slope=0.0))
    assert split.sum_launch(adding, case)().item() == 0


def test_depth_becomes_channels_in_every_type_and_layout(folding: ctypes.CDLL) -> None:
    for number, case in enumerate(fold.random_cases(48, most_size=9)):
        assert fold.worst_excess(case, fold.fold_launch(folding, case)()) == 0.0, f"case {number}: {case}"


def test_the_hourglass_input_in_every_type_and_layout(moving: ctypes.CDLL) -> None:
    for number, case in enumerate(motion.random_input_cases(72, most_size=7)):
        excess = motion.input_excess(case, motion.input_launch(moving, case)())
        assert excess <= 1.0, f"case {number}: {excess:.3g} times the bound: {case}"


def test_rows_longer_than_a_block(moving: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(3)
    for width, last in ((64, True), (71, False), (71, True)):
        features = torch.randn((1, 4, 2, 3, width), generator=generator).half()
        points = [torch.rand((1, 15, 3), generator=generator) * 2 - 1 for _ in range(2)]
        case = motion.Case(features, *points, last, last)
        assert motion.input_excess(case, motion.input_launch(moving, case)()) <= 1.0


def test_the_sum_of_motions_in_every_type_and_layout(moving: ctypes.CDLL) -> None:
    for number, case in enumerate(motion.random_sum_cases(72, most_size=8)):
        excess = motion.sum_excess(case, motion.sum_launch(moving, case)())
        assert excess <= 1.0, f"case {number}: {excess:.3g} times the bound: {case}"


def test_the_last_convolution_in_every_type_and_layout(tmp_path_factory: pytest.TempPathFactory) -> None:
    kernels = kernels_on_host("picture_conv", tmp_path_factory.mktemp("kernel"))
    for number, case in enumerate(picture.random_cases(18, most_size=37)):
        excess = picture.worst_excess(case, picture.picture_launch(kernels, case)())
        assert excess <= 1.0, f"case {number}: {excess:.3g} times the bound: {case}"
    launch = picture.picture_launch(kernels, case)
    launch.problem.channels, launch.problem.channels_last = 12, 1
    with pytest.raises(BuildError, match="PictureConv: channels last are fp16 or bf16 in multiples of 8, not 12"):
        launch()


def test_masks_below_the_floor_count_as_zero(moving: ctypes.CDLL) -> None:
    logits = torch.zeros((1, 2, 2, 2, 2))
    logits[:, 1] = -6.0  # A mask of 0.0025.
    logits[:, 1, 1] = -8.0  # One of 0.0003.
    case = motion.Case(logits, torch.zeros((1, 1, 3)), torch.full((1, 1, 3), 100.0))
    deformation = motion.sum_launch(moving, case)()
    assert (deformation[0, 0, 0, 0] > -0.9).all()
    assert torch.allclose(deformation[0, 1], coordinate_grid(2, 2, 2)[1], atol=1e-3)


def test_a_bad_launch_is_refused_with_a_sentence(moving: ctypes.CDLL) -> None:
    case = motion.Case(torch.zeros((1, 4, 2, 2, 2)), torch.zeros((1, 15, 3)), torch.zeros((1, 15, 3)))
    for launch, field, value, words in (
        (motion.input_launch(moving, case), "depth", 1, "MotionInput: an axis of the volume has 1 voxels"),
        (motion.input_launch(moving, case), "keypoints", 16, "MotionInput: 16 keypoints; 1 to 15"),
        (motion.input_launch(moving, case), "channels", 8, "the output would have 144 channels; at most 128"),
        (motion.input_launch(moving, case), "output_channels_last", 1, "channels last are fp16 or bf16, not fp32"),
        (motion.sum_launch(moving, case), "channels", 4, "MotionSum: 4 mask logits for 15 keypoints"),
    ):
        setattr(launch.problem, field, value)
        with pytest.raises(BuildError, match=words):
            launch()


def assert_refused(launch: KernelLaunch, field: str, value: int | None, words: str) -> None:
    """With one field of its problem changed a launch is refused; the field is then as before."""
    kept = getattr(launch.problem, field)
    setattr(launch.problem, field, value)
    with pytest.raises(BuildError, match=words):
        launch()
    setattr(launch.problem, field, kept)


def test_a_bad_sum_is_refused_with_a_sentence(adding: ctypes.CDLL) -> None:
    case = split.Case(torch.zeros((6, 24, 4, 4)).half(), torch.zeros(8), how=split.Attributes(3, (3, 1, 1)))
    launch = split.sum_launch(adding, case)
    for field, value, words in (
        ("depth", 4, "SplitSum: 6 maps are no volumes of depth 4"),
        ("taps_depth", 2, "SplitSum: 2 taps along axis 0; an odd number up to 15"),
        ("scale", 0, "SplitSum: scale 0 with pool 0"),
        ("width", 0, "SplitSum: 8 outputs of 4 x 0"),
        ("maps", 3 * 2**24, "SplitSum: a tensor has more than"),
        ("feature_type", 3, "SplitSum: feature type 3 is not 0"),
        ("y_channels_last", 1, "SplitSum: channels last come of channels last in multiples of 8"),
        ("first_channel", 8, "SplitSum: 24 channels from 8 on for 8 outputs; 24 are expected"),
        ("first_channel", -1, "SplitSum: 24 channels from -1 on"),
        ("skip_channels", 8, "SplitSum: a tensor is a null pointer"),
        ("bias", None, "SplitSum: a tensor is a null pointer"),
    ):
        assert_refused(launch, field, value, words)
    launch.problem.scale = 2
    assert_refused(launch, "taps_width", 3, "3 taps along axis 2; an odd number up to 15, in an upsampled plane 1")
    assert_refused(launch, "pool", 1, "SplitSum: scale 2 with pool 1")


def test_a_bad_fold_is_refused_with_a_sentence(folding: ctypes.CDLL) -> None:
    launch = fold.fold_launch(folding, fold.Case(torch.zeros((1, 12, 3, 4, 4)).half(), False))
    for field, value, words in (
        ("channels_last", 1, "FoldDepth: channels last are fp16 or bf16 in multiples of 8, not 12"),
        ("depth", 0, "FoldDepth: axis 2 has size 0; at least 1"),
        ("batch", 2**24, "FoldDepth: a tensor has more than"),
        ("feature_type", 3, "FoldDepth: feature type 3 is not 0"),
        ("output", None, "FoldDepth: input or output is a null pointer"),
    ):
        assert_refused(launch, field, value, words)
