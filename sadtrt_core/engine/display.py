"""Builds as a person watches them: one line an engine, with its phase, its share done and the time that has passed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from sadtrt_core.engine.parallel import BuildEvent, Report


@contextlib.contextmanager
def build_progress(console: Console) -> Iterator[Report]:
    """A live display of builds on `console`; the yielded function takes their events.

    TensorRT 8.6 reports no phases: there a spinner and the clock show that it is alive. Why a build failed is in its
    outcome, for the caller to print.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def report(event: BuildEvent) -> None:
            if event.label not in tasks:
                tasks[event.label] = progress.add_task(escape(event.label), total=None)
            task = tasks[event.label]
            if event.kind == "phase":
                progress.update(task, description=escape(f"{event.label}: {event.message}"))
                if event.fraction is not None:
                    progress.update(task, total=1.0, completed=event.fraction)
            elif event.kind == "line":
                progress.console.print(escape(event.message))
            elif event.kind in ("done", "failed"):
                color = "green" if event.kind == "done" else "red"
                word = "built" if event.kind == "done" else "failed"
                progress.update(
                    task, description=f"[{color}]{escape(event.label)}: {word}[/]", total=1.0, completed=1.0
                )
                progress.stop_task(task)

        yield report
