"""The ranges that a quantized graph is made with: what they were measured on, and their file in the cache."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.codec import JsonValue
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_whole

_SIZE_LIMIT = 1 << 20  # Bytes; a hundred convolutions take ten kilobytes.


@dataclass(frozen=True)
class Calibration(JsonValue):
    """The largest magnitude that each convolution's input has, by the name of the convolution's node.

    Measured in fp32 over these frames of a workload by one method of the calibrator; `weights` and `workload` are
    digests, `exporter` says what wrote the graph and computed it. The names of convolutions are the same in the whole
    generator and in its parts, so one calibration serves all of them. Raises ValueError for a range that is not
    positive and finite.
    """

    method: str
    frames: tuple[int, ...]
    weights: str
    workload: str
    exporter: str
    ranges: dict[str, float]

    def __post_init__(self) -> None:
        for name, value in self.ranges.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the range of {name} is {value}: expected a positive number")

    def require(self, node: str) -> float:
        """The range of a convolution's input; UserError where it was not measured."""
        if node not in self.ranges:
            raise UserError(
                f"the calibration has no range for {node}: it was made for another network, so calibrate again"
            )
        return self.ranges[node]

    def require_weights(self, digest: str) -> None:
        """UserError unless the ranges were measured with the weights of this digest."""
        if self.weights != digest:
            raise UserError(
                f"the calibration was made with the weights {self.weights[:12]}, not with {digest[:12]}: ranges of "
                "other weights clip or waste levels, so calibrate again"
            )

    def sentence(self) -> str:
        """For the reader of a record."""
        return f"ranges by {self.method} over {len(self.frames)} frames of the driving sequence"


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write it as JSON, whole or not at all."""
    write_whole(path, (json.dumps(calibration.to_json(), indent=1, sort_keys=True) + "\n").encode())


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file. Raises UserError, which names the file, for what is missing or is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise UserError(f"cannot read the calibration {path}: {error.strerror or error}") from error
    if len(raw) > _SIZE_LIMIT:
        raise UserError(f"{path} has over {_SIZE_LIMIT >> 20} MiB: no calibration is that long")
    try:
        return Calibration.from_json(json.loads(raw))
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a calibration ({error}): delete it") from error
