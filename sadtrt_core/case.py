"""One point of what is measured: a stage, by a runner, in a precision, with one way of sampling, at a batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sadtrt_core.codec import JsonValue

#: How GridSample3D is computed: by PyTorch, or in a graph by ordinary operators, our plugin or the runtime's own node.
GridSample = Literal["torch", "native", "plugin", "builtin"]
GRAPH_GRID_SAMPLES: tuple[GridSample, ...] = ("plugin", "native", "builtin")


@dataclass(frozen=True, order=True)
class Case(JsonValue):
    """What is measured, and the name of it everywhere: in records, tables, file names, engines and the gate.

    `grid_sample` is "torch", "native", "plugin", "builtin" or "none" (the stage samples no grid). Raises ValueError for
    a word that is empty or not printable, and for a batch below 1.
    """

    stage: str
    runner: str
    precision: str
    grid_sample: str
    batch: int

    def __post_init__(self) -> None:
        for name in ("stage", "runner", "precision", "grid_sample"):
            text = getattr(self, name)
            if not text or not text.isprintable():
                raise ValueError(f"{name} of a case must be a printable, non-empty word but is {text!r}")
        if self.batch < 1:
            raise ValueError(f"batch of a case must be at least 1 but is {self.batch}")

    def label(self) -> str:
        """One line for tables and messages, such as "generator/tensorrt/fp16/native/batch 1"."""
        words = [self.stage, self.runner, self.precision, self.grid_sample, f"batch {self.batch}"]
        return "/".join(word for word in words if word != "none")

    __str__ = label

    @property
    def slug(self) -> str:
        """The name of its files, such as "generator-tensorrt-fp16-native"; the batch stands where it is not 1."""
        words = [self.stage, self.runner, self.precision, self.grid_sample]
        return "-".join(words if self.batch == 1 else [*words, f"b{self.batch}"])

    @property
    def cells(self) -> tuple[str, ...]:
        """The five cells that lead a row of every table."""
        grid = "-" if self.grid_sample == "none" else self.grid_sample
        return (self.stage, self.runner, self.precision, grid, str(self.batch))
