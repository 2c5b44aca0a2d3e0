"""Tries candidates: which parts stay fp32 and what the picture is then, every trial kept in the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sadtrt_core.accuracy.findings import Loss
from sadtrt_core.accuracy.journal import Frame, Journal, candidate_digest
from sadtrt_core.accuracy.parts import Part
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import COORDINATES, ComputeType, Precision
from sadtrt_core.records.measurements import Drift


@dataclass(frozen=True)
class Budget:
    """What a plan has to hold on every frame: at least so many dB, at most so many uint8 levels (None: any)."""

    min_psnr_db: float
    max_lsb: int | None = None

    def met_by(self, loss: Loss) -> bool:
        """Whether a loss lies within the budget; never with a frame that is not finite."""
        if loss.non_finite_frames or loss.decibels < self.min_psnr_db:
            return False
        return self.max_lsb is None or loss.max_lsb <= self.max_lsb

    def __str__(self) -> str:
        words = f"{self.min_psnr_db:g} dB"
        return words if self.max_lsb is None else f"{words} and {self.max_lsb} of 255"


class Trials:
    """Frames of candidates against the reference (T, 3, H, W), rendered once and remembered.

    `tell` is called before each rendering with the number of trials so far.
    """

    def __init__(
        self,
        simulator: Simulator,
        reference: Tensor,
        base: ComputeType,
        journal: Journal,
        tell: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.simulator, self.reference, self.base, self.journal, self.tell = (
            simulator,
            reference,
            base,
            journal,
            tell,
        )
        self.rendered = 0

    @property
    def every_frame(self) -> range:
        """Indices of the whole sequence."""
        return range(len(self.simulator.inputs))

    def keeping(self, kept: Iterable[Part], frames: Sequence[int]) -> Drift:
        """Drift over these frames with the parts in fp32 and everything else in the base type."""
        return self.of(keeping(self.base, kept), frames)

    def alone(self, part: Part, frames: Sequence[int]) -> Drift:
        """Drift over these frames with this part in the base type and everything else fp32."""
        return self.of(part.lowered(keeping(self.base, ())), frames)

    def of(self, precision: Precision, frames: Sequence[int]) -> Drift:
        """Drift over these frames of any precision; one that quantises needs candidates with ranges."""
        name = candidate_digest(
            replace(
                precision,
                name="",
                why="",
                keep_nodes=tuple(sorted(precision.keep_nodes)),
                only_nodes=None if precision.only_nodes is None else tuple(sorted(precision.only_nodes)),
            )
        )
        known = self.journal.frames(name)
        missing = [index for index in frames if index not in known]
        if missing:
            self.tell(self.rendered)
            self.rendered += 1
            drift = measure_drift(self.reference[missing], self.simulator.frames(precision, missing))
            values = zip(drift.psnr_db, drift.ssim, drift.max_lsb, drift.non_finite, strict=True)
            self.journal.add(name, {index: Frame(*value) for index, value in zip(missing, values, strict=True)})
            known = self.journal.frames(name)
        chosen = [known[index] for index in frames]
        return Drift(
            tuple(f.psnr_db for f in chosen),
            tuple(f.ssim for f in chosen),
            tuple(f.max_lsb for f in chosen),
            tuple(f.non_finite for f in chosen),
        )


def keeping(base: ComputeType, kept: Iterable[Part]) -> Precision:
    """The precision that computes in `base` but for these parts, as a plan would say it."""
    patterns = tuple(dict.fromkeys(pattern for part in kept for pattern in part.patterns))
    return Precision(
        "candidate",
        base,
        "to be measured",
        keep_coordinates=COORDINATES in patterns,
        keep_nodes=tuple(pattern for pattern in patterns if pattern != COORDINATES),
        split_k=True,
    )
