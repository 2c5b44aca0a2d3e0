"""What the experiments share: the suite's own options, and a suite made of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from sadtrt_core.config import RunConfig, default_cache
from sadtrt_core.progress import ConsoleReporter
from sadtrt_core.session import Session

ROOT = Path(__file__).parents[2]


def add_suite_options(parser: argparse.ArgumentParser) -> None:
    """Add --weights, --source-image, --optimization-level, --grid-sample and --cache to an experiment's options."""
    parser.add_argument("--weights", default="seeded", help="as the suite's --weights; times do not depend on them")
    parser.add_argument("--source-image", type=Path, help="as the suite's")
    parser.add_argument("--optimization-level", type=int, default=3, choices=range(6), help="as the suite's")
    parser.add_argument("--grid-sample", default="auto", help="as the suite's")
    parser.add_argument("--cache", type=Path, help="as the suite's --cache")


def make_session(options: argparse.Namespace, device: str = "cuda", frames: int = 1) -> Session:
    """A suite at 256 pixels of the options that `add_suite_options` added."""
    return Session(
        RunConfig(
            size=256,
            weights=options.weights,
            checkpoint=None,
            mapping_checkpoint=None,
            source_image=options.source_image,
            samples=None,
            frames=frames,
            clip_frames=None,
            device=device,
            grid_sample=options.grid_sample,
            cache=options.cache or default_cache(),
            results=ROOT / "results",
            jobs=1,
            optimization_level=options.optimization_level,
        ),
        report=ConsoleReporter(Console()),
    )
