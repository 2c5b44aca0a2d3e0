"""The kernels of dense motion, compiled for the host: every type and layout against PyTorch."""

from __future__ import annotations

import ctypes

import pytest
import torch
from on_host import kernels_on_host

from plugin.dense_motion import cases as motion
from plugin.picture_conv import cases as picture
from plugin.volume_resize import cases as resize
from plugin.volume_resize import fold_cases as fold
from plugin.volume_resize import join_cases as join
from sadtrt_core.engine.kernels import KernelLaunch
from sadtrt_core.errors import BuildError
from sadtrt_core.renderer.layers import coordinate_grid


@pytest.fixture(scope="module")
def resizing(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("volume_resize", tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def folding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("fold_depth", tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return kernels_on_host("dense_motion", tmp_path_factory.mktemp("kernel"))


def test_volumes_are_halved_and_doubled_in_every_type_and_layout(resizing: ctypes.CDLL) -> None:
    for number, case in enumerate(resize.random_cases(72, most_size=9)):
        excess = resize.worst_excess(case, resize.resize_launch(resizing, case)())
        assert excess <= 1.0, f"case {number}: {excess:.3g} times the bound: {case}"


def test_two_volumes_are_joined_and_doubled_in_every_type_and_layout(resizing: ctypes.CDLL) -> None:
    for number, case in enumerate(join.random_cases(48, most_size=9)):
        assert join.worst_excess(case, join.join_launch(resizing, case)()) == 0.0, f"case {number}: {case}"


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


def test_a_bad_launch_is_refused_with_a_sentence(resizing: ctypes.CDLL, moving: ctypes.CDLL) -> None:
    halving = resize.resize_launch(resizing, resize.Case(torch.zeros((1, 3, 1, 4, 4)).half(), "halve", False))
    halving.problem.channels_last = 1
    with pytest.raises(BuildError, match="VolumeResize: channels last are fp16 or bf16 in multiples of 8, not 3"):
        halving()
    halving.problem.channels_last, halving.problem.width = 0, 1
    with pytest.raises(BuildError, match="VolumeResize: axis 4 has size 1; at least 2"):
        halving()
    halving.problem.width, halving.problem.output = 4, None
    with pytest.raises(BuildError, match="VolumeResize: input or output is a null pointer"):
        halving()
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


def test_a_bad_join_is_refused_with_a_sentence(resizing: ctypes.CDLL) -> None:
    volume = torch.zeros((1, 8, 3, 4, 4)).half()
    launch = join.join_launch(resizing, join.Case(volume, volume[:, :4], False))
    for field, value, words in (
        ("channels_last", 1, "VolumeJoinDouble: channels last are fp16 or bf16 in multiples of 8, not 4"),
        ("second_channels", 0, "VolumeJoinDouble: axis 1 has size 0; at least 1"),
        ("batch", 2**20, "VolumeJoinDouble: a tensor has more than"),
        ("second", None, "VolumeJoinDouble: a tensor is a null pointer"),
    ):
        assert_refused(launch, field, value, words)


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
