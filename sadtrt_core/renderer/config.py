"""The sizes of a renderer: SadTalker's own, and the small demo renderer that runs on a laptop."""

from __future__ import annotations

from dataclasses import dataclass

NUM_KEYPOINTS = 15
COEFFICIENTS = 70
COEFFICIENT_WINDOW = 27
IMAGE_SIZES = (256, 512)


@dataclass(frozen=True)
class RendererConfig:
    """Widths of the three networks; the defaults are SadTalker's 256-pixel model (its published facerender.yaml).

    `image_size` is the width and height in pixels of source image and frame. `feature_channels` x `feature_depth` is
    the appearance volume.
    """

    image_size: int = 256
    generator_width: int = 64
    generator_width_max: int = 512
    feature_channels: int = 32
    feature_depth: int = 16
    spade_hidden: int = 128
    motion_width: int = 32
    motion_width_max: int = 1024
    motion_channels: int = 4
    keypoint_width: int = 32
    keypoint_width_max: int = 1024
    keypoint_depth: int = 16
    mapping_width: int = 1024
    coefficients: int = COEFFICIENTS

    def __post_init__(self) -> None:
        if self.image_size not in IMAGE_SIZES:
            raise ValueError(f"image size {self.image_size} is not supported: expected one of {IMAGE_SIZES} pixels")

    @property
    def feature_size(self) -> int:
        """Height and width of the feature maps between the stages."""
        return self.image_size // 4

    @property
    def warped_channels(self) -> int:
        """Channels of the map that the warp stage hands to the decoder."""
        return min(self.generator_width_max, self.generator_width * 4)


def full_config(image_size: int = 256) -> RendererConfig:
    """SadTalker's renderer: 101 M parameters and 1203 GFLOP a frame at 256 pixels."""
    return RendererConfig(image_size=image_size)


def demo_config(image_size: int = 256) -> RendererConfig:
    """The same networks at about an eighth of the widths: under 2 M parameters, for machines without a GPU."""
    return RendererConfig(
        image_size=image_size,
        generator_width=8,
        generator_width_max=64,
        feature_channels=8,
        feature_depth=7,
        spade_hidden=14,
        motion_width=4,
        motion_width_max=64,
        motion_channels=1,
        keypoint_width=4,
        keypoint_width_max=64,
        keypoint_depth=4,
        mapping_width=80,
    )
