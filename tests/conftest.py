"""Fixtures several test modules share. The renderers are immutable, so one of each serves the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sadtrt_core.renderer.config import demo_config, full_config
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.seeded import seeded_renderer

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    return DATA


@pytest.fixture(scope="session")
def seeded_demo() -> Renderer:
    return seeded_renderer(demo_config())


@pytest.fixture(scope="session")
def seeded_full() -> Renderer:
    return seeded_renderer(full_config())


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.inference_mode():
        yield
