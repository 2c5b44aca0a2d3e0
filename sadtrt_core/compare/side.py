"""One side of a comparison: its case, as a user types it and as the process of another checkout is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sadtrt_core.case import GRAPH_GRID_SAMPLES, Case
from sadtrt_core.config import RunConfig
from sadtrt_core.engine.job import parse_file_name
from sadtrt_core.errors import UserError
from sadtrt_core.precision import PLAN_SUFFIX
from sadtrt_core.session import Session

PICTURE_FRAMES = 4
"""At least so many frames of the workload are rendered by both sides to say how far their pictures are apart."""
#: Stands for the way to sample that the machine offers, where none was asked for.
AUTO = "auto"
#: What both sides share of a RunConfig. These names and those in `question` are understood by older checkouts.
_SHARED = ("size", "weights", "checkpoint", "device", "cache", "optimization_level")
_SIDE = {"runner", "precision", "grid_sample", "engine"}


@dataclass(frozen=True)
class Side:
    """A case, its grid_sample being AUTO where the machine may choose and its precision a plan's file where one is.

    `engine` is an engine file that TensorRT runs, whatever precision it was built in.
    """

    case: Case
    engine: Path | None = None

    @property
    def label(self) -> str:
        """What a user types for it, with its defaults filled in; of an engine file its name."""
        if self.engine is not None:
            return self.engine.name
        words = (self.case.runner, self.case.precision, self.case.grid_sample)
        return ":".join(word for word in words if word != AUTO)

    def resolved(self, session: Session) -> Case:
        """The case that this machine runs. Raises UserError for a name that is not known."""
        asked = self.case
        found = session.case(asked.stage, asked.runner, asked.precision, asked.batch)
        return found if asked.grid_sample == AUTO else replace(found, grid_sample=asked.grid_sample)


def parse_side(text: str, stage: str, batch: int) -> Side:
    """`runner[:precision[:grid_sample]]`, fp32 where no precision is given, or the path of a `.engine` file.

    Raises UserError, which says what is expected.
    """
    if text.endswith(".engine"):
        path = Path(text).resolve()
        return Side(Case(stage, "tensorrt", "fp32", parse_file_name(path)[0].grid_sample, batch), path)
    runner, *rest = text.split(":")
    if len(rest) > 2 or not all((runner, *rest)):
        raise UserError(f"{text!r} should be runner[:precision[:grid_sample]], such as pytorch:fp16, or an engine file")
    precision, grid_sample = (*rest, *("fp32", AUTO)[len(rest) :])
    if grid_sample != AUTO and grid_sample not in GRAPH_GRID_SAMPLES:
        raise UserError(f"grid sample {grid_sample!r} is not known: expected {', '.join(GRAPH_GRID_SAMPLES)}")
    return Side(Case(stage, runner, precision, grid_sample, batch))


def picture_frames(batch: int) -> int:
    """How many frames both sides render: whole batches."""
    return batch * -(-PICTURE_FRAMES // batch)


def question(side: Side, config: RunConfig) -> dict[str, Any]:
    """What another checkout's process is asked to run, as JSON has it. It runs in another folder: paths are whole."""
    case = side.case
    precision = str(Path(case.precision).resolve()) if case.precision.endswith(PLAN_SUFFIX) else case.precision
    words = {"runner": case.runner, "precision": precision}
    # Without what was not given, so that a checkout that does not know engine files understands the rest.
    if case.grid_sample != AUTO:
        words["grid_sample"] = case.grid_sample
    if side.engine is not None:
        words["engine"] = str(side.engine)
    shared = {name: getattr(config, name) for name in _SHARED}
    if config.weights.endswith(".safetensors"):
        shared["weights"] = Path(config.weights)
    shared = {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in shared.items()}
    return {"side": words, "conditions": {"stage": case.stage, "batch": case.batch, **shared}}


def read_question(asked: Mapping[str, Any]) -> tuple[Side, RunConfig]:
    """The side and the configuration of a `question`. Raises UserError for what this version does not know."""
    words, conditions = asked["side"], asked["conditions"]
    unknown = [*(set(words) - _SIDE), *(set(conditions) - {"stage", "batch", *_SHARED})]
    if unknown:
        raise UserError(f"this checkout does not know {', '.join(sorted(unknown))}: it is too old for this comparison")
    batch = conditions["batch"]
    case = Case(conditions["stage"], words["runner"], words["precision"], words.get("grid_sample", AUTO), batch)
    shared = {name: conditions[name] for name in _SHARED if name in conditions}
    for name in ("checkpoint", "cache"):
        shared[name] = Path(shared[name]) if shared.get(name) else None
    config = RunConfig.from_options({**shared, "stage": case.stage, "batch": batch, "frames": picture_frames(batch)})
    return Side(case, Path(words["engine"]) if "engine" in words else None), config
