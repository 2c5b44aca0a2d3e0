"""What is compared: a side (a runner in a precision, or an engine file) and the conditions that both sides share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.case import GRAPH_GRID_SAMPLES
from sadtrt_core.config import RunConfig
from sadtrt_core.engine.job import parse_file_name
from sadtrt_core.progress import Reporter
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.session import Session

PICTURE_FRAMES = 4
"""At least so many frames of the workload are rendered by both sides to say how far their pictures are apart."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a runner in a precision; `grid_sample` is None for what the machine offers.

    `engine` is the path of an engine file that TensorRT runs, whatever precision it was built in.
    """

    runner: str
    precision: str
    grid_sample: str | None = None
    engine: str | None = None

    @classmethod
    def parse(cls, text: str) -> Side:
        """`runner[:precision[:grid_sample]]`, fp32 where no precision is given, or the path of a `.engine` file.

        ValueError says what is expected.
        """
        if text.endswith(".engine"):
            path = Path(text).resolve()
            return cls("tensorrt", "fp32", parse_file_name(path)[0].grid_sample, str(path))
        runner, *rest = text.split(":")
        if len(rest) > 2 or not all((runner, *rest)):
            raise ValueError(
                f"{text!r} should be runner[:precision[:grid_sample]], such as pytorch:fp16, or an engine file"
            )
        runner_named(runner)
        grid_sample = rest[1] if len(rest) == 2 else None
        if grid_sample is not None and grid_sample not in GRAPH_GRID_SAMPLES:
            raise ValueError(f"grid sample {grid_sample!r} is not known: expected {', '.join(GRAPH_GRID_SAMPLES)}")
        return cls(runner, rest[0] if rest else "fp32", grid_sample)

    def label(self) -> str:
        """The text it was parsed from, with its defaults filled in; of an engine file its name."""
        if self.engine is not None:
            return Path(self.engine).name
        return ":".join(word for word in (self.runner, self.precision, self.grid_sample) if word)


@dataclass(frozen=True)
class Conditions:
    """What both sides share, as plain values, so that another checkout's process can be told: see `RunConfig`."""

    stage: str
    batch: int
    size: int
    weights: str
    checkpoint: str | None
    device: str
    cache: str
    optimization_level: int = 3

    def suite(self, report: Reporter) -> Session:
        """A suite under these conditions."""
        return Session(
            RunConfig(
                size=self.size,
                weights=self.weights,
                checkpoint=Path(self.checkpoint) if self.checkpoint else None,
                mapping_checkpoint=None,
                source_image=None,
                samples=None,
                frames=self.batch * -(-PICTURE_FRAMES // self.batch),
                clip_frames=None,
                device=self.device,
                grid_sample="auto",
                cache=Path(self.cache),
                results=Path("results"),
                jobs=1,
                optimization_level=self.optimization_level,
            ),
            report=report,
        )
