"""Shows how far a fit has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID

from sadtrt_core.renderer.fit import FitProgress, Report


@contextmanager
def shown_fit(console: Console) -> Iterator[Report]:
    """A report for `fit` that draws one bar for each network, filled as its seconds pass."""
    with Progress(console=console) as display:
        bars: dict[str, tuple[TaskID, float]] = {}

        def show(progress: FitProgress) -> None:
            if progress.network not in bars:
                bar = display.add_task(progress.network, total=progress.seconds_left)
                bars[progress.network] = bar, progress.seconds_left
            bar, total = bars[progress.network]
            description = f"{progress.network}: step {progress.step}, loss {progress.loss:.4f}"
            display.update(bar, completed=total - progress.seconds_left, description=description)

        yield show
