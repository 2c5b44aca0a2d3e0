"""Who is told how work goes on: lines for a person to read, and tasks with what is done of them."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from typing_extensions import Self

from sadtrt_core.errors import printable

#: Wider than any line: rich gives a table only what it needs.
_PIPED_WIDTH = 10_000


def make_console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console on `file`, or standard output or error, that neither breaks lines nor fails where it is no terminal.

    A pipe has lines of any length, and characters that its encoding lacks, of a file's name perhaps, are escaped.
    """
    shown = file or (sys.stderr if stderr else sys.stdout)
    if isinstance(shown, TextIOWrapper):
        shown.reconfigure(errors="backslashreplace")
    return Console(file=file, stderr=stderr, width=None if shown.isatty() else _PIPED_WIDTH)


class Reporter:
    """Told of what takes time, from several threads perhaps; this one tells nobody."""

    def log(self, line: str) -> None:
        """One sentence that a person should see."""

    def progress(self, task: str, done: float, total: float | None) -> None:
        """How much of a task is done; `total` is None where nobody knows how much there is.

        A task is known by its name up to the first ": "; what follows says what it is doing now.
        """


SILENT = Reporter()


class ConsoleReporter(Reporter):
    """Prints lines on a console and, inside a `with` block, draws one bar a task below them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display: Progress | None = None
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._display, self._bars = Progress(*columns, console=self._console), {}
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
        self._display = None

    def log(self, line: str) -> None:
        """Print the line as it is, above the bars."""
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def progress(self, task: str, done: float, total: float | None) -> None:
        """Draw the task's bar; without a `with` block there is none."""
        if self._display is None:
            return
        name = task.partition(": ")[0]
        if name not in self._bars:
            self._bars[name] = self._display.add_task(name, total=None)
        bar = self._bars[name]
        self._display.update(bar, description=escape(task), completed=done, total=total)
        if total is None or done < total:
            self._display.tasks[bar].finished_time = None  # Its next phase has begun: the clock goes on.
