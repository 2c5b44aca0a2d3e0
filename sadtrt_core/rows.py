"""The rows of a run: which cases are measured where they were not named, and in which order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from sadtrt_core.config import RunConfig
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.runners.registry import EAGER, RUNNERS

Row = tuple[str, str, str, int]
"""Stage, runner and precision as a user types them, and batch."""
Value = TypeVar("Value")
#: Measured on a GPU beside a batch of 1 where none is given: SadTalker's own default, and one that fills the GPU.
GPU_BATCHES = (2, 8)
#: What is measured at these batches, so that a run stays short: the generator in half, by these runners.
_BATCH_RUNNERS = (EAGER, "pytorch-cuda-graph", "torch-compile", "tensorrt")
_BATCH_PRECISIONS = ("fp16", "fp16-mixed")


def rows_of(config: RunConfig, on_gpu: bool) -> list[Row]:
    """Every row that was asked for, the stage outermost; what takes long and says little only where it is named."""
    batches = config.batches or ((1, *GPU_BATCHES) if on_gpu else (1,))
    names = (config.stages or STAGES, config.runners or RUNNERS, config.precisions or PRECISIONS)
    return [row for row in itertools.product(*names, batches) if _is_wanted(row, config)]


def _is_wanted(row: Row, config: RunConfig) -> bool:
    stage, runner, precision, batch = row
    usual = RUNNERS[runner].usual
    if usual is not None and runner not in config.runners and (stage not in usual[0] or precision not in usual[1]):
        return False
    as_shipped = precision in PRECISIONS and PRECISIONS[precision].as_shipped
    if as_shipped and runner != EAGER and precision not in config.precisions:
        return False
    if batch == 1 or config.batches:
        return True
    # What the others are compared with, whatever it takes.
    compared_with = runner == EAGER and (as_shipped or precision == "fp32")
    return stage == "generator" and (compared_with or (runner in _BATCH_RUNNERS and precision in _BATCH_PRECISIONS))


def shuffled(rows: Iterable[Value], name: Callable[[Value], str], seed: int) -> list[Value]:
    """The rows in an order that follows from the seed and each row's name: the same one whichever others there are."""
    return sorted(rows, key=lambda row: random.Random(f"{seed} {name(row)}").random())
