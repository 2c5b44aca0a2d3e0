"""A reporter that keeps what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Kept:
    """Lines and tasks in the order they came."""

    lines: list[str] = field(default_factory=list)
    tasks: list[tuple[str, float, float | None]] = field(default_factory=list)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, task: str, done: float, total: float | None) -> None:
        self.tasks.append((task, done, total))
