"""What goes wrong in ways that a person can do something about, each in one sentence."""

from __future__ import annotations

from dataclasses import dataclass


class UserError(ValueError):
    """A file, option or argument that cannot be used: the sentence names it, what was expected and what to do."""


class BuildError(RuntimeError):
    """No engine or library could be built: the sentence says where and why."""


class EngineRefused(RuntimeError):
    """The engine does not fit this TensorRT, GPU or stage; another build may."""


@dataclass(frozen=True)
class Unavailable:
    """Why something is not to be had on this machine, and the command that fixes it where there is one."""

    reason: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} ({self.fix})" if self.fix else self.reason
