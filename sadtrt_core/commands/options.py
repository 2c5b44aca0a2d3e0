"""What the commands share: their options, where they print, and how an error is worded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from sadtrt_core.config import RunConfig, default_cache
from sadtrt_core.errors import BuildError
from sadtrt_core.progress import ConsoleReporter

if TYPE_CHECKING:
    from sadtrt_core.session import Session

console = Console()
errors = Console(stderr=True)

Size = Annotated[int, typer.Option(help="Image size in pixels: 256 or 512.")]
WeightsChoice = Annotated[
    str, typer.Option(help="auto, demo, fitted, fitted-seedN, seeded, or a .safetensors file of `sadtrt fit`.")
]
Checkpoint = Annotated[Path | None, typer.Option(help="SadTalker's .safetensors, .pth or .pth.tar.")]
SourceImage = Annotated[Path | None, typer.Option(help="A picture to animate instead of the built-in portrait.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of graphs, engines, weights and the timing cache.")]
Device = Annotated[str, typer.Option(help="auto, cuda or cpu.")]
GridSampleChoice = Annotated[str, typer.Option(help="auto, plugin, native or builtin.")]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what a user can mend into one sentence and exit code 2; anything else keeps its traceback."""
    try:
        yield
    except (ValueError, BuildError, OSError) as error:
        errors.print(f"[red]sadtrt:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def make_session(
    size: int,
    weights: str,
    checkpoint: Path | None,
    device: str,
    grid_sample: str,
    cache: Path | None,
    optimization_level: int = 3,
    jobs: int = 1,
    source_image: Path | None = None,
) -> Session:
    """A suite of one frame for commands that build, look or search; see RunConfig. Raises ValueError."""
    from sadtrt_core.session import Session

    return Session(
        RunConfig(
            size=size,
            weights=weights,
            checkpoint=checkpoint,
            mapping_checkpoint=None,
            source_image=source_image,
            samples=None,
            frames=1,
            clip_frames=None,
            device=device,
            grid_sample=grid_sample,
            cache=cache or default_cache(),
            results=Path("results"),
            jobs=jobs,
            optimization_level=optimization_level,
        ),
        report=ConsoleReporter(errors),
    )
