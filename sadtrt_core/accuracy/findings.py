"""What measuring losses found, as plain values that are kept as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from sadtrt_core.accuracy.parts import Level
from sadtrt_core.accuracy.ranges import RangeFinding
from sadtrt_core.codec import JsonValue
from sadtrt_core.precision import TORCH_TYPES, ComputeType
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.schema import Weights, Workload

REPORT_VERSION = 2
ENGINE_REPORT_VERSION = 2
SUMS_REPORT_VERSION = 2


@dataclass(frozen=True)
class Loss(JsonValue):
    """The worst of some frames: minimum PSNR in dB and SSIM (None with a frame that is not finite), largest LSB."""

    psnr_min_db: float | None
    ssim_min: float | None
    max_lsb: int
    non_finite_frames: int

    @classmethod
    def of(cls, drift: Drift) -> Loss:
        """The worst of a drift's frames."""
        broken = drift.has_non_finite
        return cls(
            None if broken else drift.psnr_min,
            None if broken else drift.ssim_min,
            drift.max_lsb_worst,
            sum(drift.non_finite),
        )

    @property
    def decibels(self) -> float:
        """Minimum PSNR to compare by: minus infinity where a frame is not finite."""
        return -math.inf if self.psnr_min_db is None else self.psnr_min_db


@dataclass(frozen=True)
class PartLoss(JsonValue):
    """What one part costs: `lowered` in the low type with the rest fp32, `excluded` in fp32 with the rest low.

    `arithmetic` is its share of the generator's operations, 0 to 1; `time` its share of the measured time of the
    generator's stages, None where no run has it.
    """

    part: str
    level: Level
    within: str | None
    patterns: tuple[str, ...]
    lowered: Loss
    excluded: Loss
    arithmetic: float
    time: float | None = None

    @property
    def badness(self) -> tuple[float, float]:
        """To sort by, the worst first: what it costs in the low type; the other direction settles ties."""
        return self.lowered.decibels, -self.excluded.decibels


@dataclass(frozen=True)
class DriftReport(JsonValue):
    """Where one precision loses the picture. `frames` are the indices measured on, the sequence's worst.

    `low` is everything in the precision, over those frames; the reference is the same graph in fp32. `complete` is
    False where it was interrupted; `time_source` says whose latencies the shares of time are.
    """

    version: int
    precision: str
    compute: ComputeType
    reference: str
    meaningful: bool
    weights: Weights
    workload: Workload
    frames: tuple[int, ...]
    complete: bool
    low: Loss
    parts: tuple[PartLoss, ...]
    ranges: tuple[RangeFinding, ...]
    versions: dict[str, str]
    time_source: str | None = None

    def ranked(self, level: Level) -> tuple[PartLoss, ...]:
        """The parts of one level, the one that costs most by itself first; the other direction settles ties."""
        found = [part for part in self.parts if part.level == level]
        return tuple(sorted(found, key=lambda part: (part.badness, part.part)))

    def overflows(self) -> tuple[RangeFinding, ...]:
        """Findings of values beyond the type's largest."""
        return tuple(finding for finding in self.ranges if finding.kind == "overflow")

    @property
    def limits(self) -> tuple[float, float]:
        """The type's largest and smallest normal number."""
        limits = torch.finfo(TORCH_TYPES[self.compute])
        return limits.max, limits.tiny


@dataclass(frozen=True)
class Pair(JsonValue):
    """The same frames by the shipped runner, and as the precision's types alone would have them."""

    runner: Loss
    simulated: Loss

    @property
    def beyond(self) -> float:
        """What the runner loses beyond its types: the PSNR in dB of its mean squared error less the simulated one.

        Infinite where it loses no more, minus infinity where it alone is not finite.
        """
        error = 10 ** (-self.runner.decibels / 10)
        expected = 10 ** (-self.simulated.decibels / 10)
        if error <= expected:
            return math.inf
        return -math.inf if math.isinf(error) else -10 * math.log10(error - expected)


@dataclass(frozen=True)
class StageLoss(JsonValue):
    """One stage alone in the precision, and all but it; the other stages are PyTorch's in fp32.

    `excluded` is None for all stages together and for the generator as one graph.
    """

    stage: str
    lowered: Pair
    excluded: Pair | None = None


@dataclass(frozen=True)
class EngineReport(JsonValue):
    """Where a shipped runner loses the picture, stage by stage, against PyTorch fp32 with TF32 off.

    `frames` are the indices measured on, the sequence's worst by the runner.
    """

    version: int
    precision: str
    runner: str
    grid_sample: str
    optimization_level: int
    meaningful: bool
    weights: Weights
    workload: Workload
    frames: tuple[int, ...]
    stages: tuple[StageLoss, ...]
    versions: dict[str, str]

    def ranked(self) -> tuple[StageLoss, ...]:
        """The single stages, that first which alone loses most beyond its types; then those of them all."""
        single = [stage for stage in self.stages if stage.excluded is not None]
        single.sort(key=lambda stage: (stage.lowered.beyond, stage.lowered.runner.decibels))
        return (*single, *(stage for stage in self.stages if stage.excluded is None))


@dataclass(frozen=True)
class SumLoss(JsonValue):
    """One convolution that sums `products` products a value: the mean squared error (peak 1) of the picture when it
    alone sums in half, against the same graph with every sum in float; 1 for values that are not finite.

    Any other rounding changes some pixels, too: the smallest of these errors are about alike and say no more than that.
    """

    node: str
    products: int
    squared_error: float


@dataclass(frozen=True)
class ExcludedSums(JsonValue):
    """The picture where all but the worst `count` convolutions sum in half."""

    count: int
    loss: Loss


@dataclass(frozen=True)
class SumsReport(JsonValue):
    """What sums in half cost in one precision, against PyTorch fp32 with TF32 off.

    `frames` are the indices measured on, the sequence's worst with every half convolution summing in half (`in_half`);
    `in_float` is what the types alone cost. `complete` is False where it was interrupted.
    """

    version: int
    precision: str
    meaningful: bool
    weights: Weights
    workload: Workload
    frames: tuple[int, ...]
    complete: bool
    in_float: Loss
    in_half: Loss
    convolutions: tuple[SumLoss, ...]
    excluded: tuple[ExcludedSums, ...]
    versions: dict[str, str]

    def ranked(self) -> tuple[SumLoss, ...]:
        """The convolutions, that which loses most first."""
        return tuple(sorted(self.convolutions, key=lambda one: (-one.squared_error, one.node)))
