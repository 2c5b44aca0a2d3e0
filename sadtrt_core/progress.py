"""Progress of localising and searching on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Tell = Callable[[str, int, int | None], None]


@contextmanager
def shown_progress(console: Console) -> Iterator[Tell]:
    """A bar for as long as the block runs; the function takes what is done now, steps done and steps in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as display:
        bar = display.add_task("starting", total=None)

        def tell(doing: str, done: int, total: int | None) -> None:
            display.update(bar, description=doing, completed=done, total=total or None)

        yield tell
