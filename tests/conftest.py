"""Fixtures several test modules share. The renderers are immutable, so one of each serves the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.renderer.config import RendererConfig, demo_config, full_config
from sadtrt_core.renderer.renderer import Renderer, seeded_renderer
from sadtrt_core.renderer.stages import STAGES

DATA = Path(__file__).parent / "data"
#: A suite in a process of its own is not one of this run's workers, as pytest-benchmark would take it for.
os.environ.pop("PYTEST_XDIST_WORKER", None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return DATA


@pytest.fixture(scope="session")
def seeded_demo() -> Renderer:
    return seeded_renderer(demo_config())


@pytest.fixture(scope="session")
def seeded_full() -> Renderer:
    return seeded_renderer(full_config())


@pytest.fixture(scope="session")
def seeded_calibration(seeded_demo: Renderer) -> Calibration:
    """Ranges of four for every convolution of the seeded generator, as far as noise has ranges."""
    graph = export_stage(seeded_demo, STAGES["generator"])
    ranges = {node.name: 4.0 for node in graph.graph.node if node.op_type == "Conv"}
    return Calibration("a test", (0,), seeded_demo.weights.digest, "workload", "exporter", ranges)


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield


@dataclass(frozen=True)
class _SmallPictures(RendererConfig):
    """The least widths of the same networks, and a picture size that no checkpoint has: they are convolutional."""

    image_size: int = 128
    generator_width: int = 4
    generator_width_max: int = 16
    feature_channels: int = 4
    feature_depth: int = 2
    spade_hidden: int = 4
    motion_width: int = 2
    motion_width_max: int = 8
    motion_channels: int = 1
    keypoint_width: int = 2
    keypoint_width_max: int = 8
    keypoint_depth: int = 2
    mapping_width: int = 8

    def __post_init__(self) -> None: ...


@pytest.fixture(scope="session")
def tiny() -> Renderer:
    """For tests that render dozens of times."""
    return seeded_renderer(_SmallPictures())


@pytest.fixture(scope="session")
def tiny_256() -> Renderer:
    """The same for pictures of a size that is offered."""
    return seeded_renderer(_SmallPictures(256))


@pytest.fixture(scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small run no faster on several threads, and much slower where others want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
