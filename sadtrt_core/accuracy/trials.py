"""Measures precisions of one graph, every frame kept on disk at once: a search that was killed goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sadtrt_core.accuracy.findings import Loss
from sadtrt_core.accuracy.parts import Part
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file
from sadtrt_core.measure.drift import measure_drift
from sadtrt_core.precision import COORDINATES, ComputeType, Precision
from sadtrt_core.progress import SILENT, Reporter
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


class Frame(NamedTuple):
    """One frame against the reference, as in Drift: PSNR in dB, SSIM, largest uint8 difference."""

    psnr_db: float | None
    ssim: float | None
    max_lsb: int
    non_finite: bool


@dataclass
class Journal:
    """Frames measured so far, by the digest of the precision and the frame's index.

    The file's name is a digest of what the figures depend on, so figures of other work are never read.
    """

    path: Path
    measured: dict[str, dict[int, Frame]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, str], reporter: Reporter = SILENT) -> Journal:
        """The journal of this key in a folder; empty where there is none or, as `reporter` is told, it is damaged."""
        made = cls(folder / f"{_digest(dict(key))[:24]}.json")
        if not made.path.exists():
            return made
        try:
            content = json.loads(made.path.read_text("utf-8"))
            if content["sha256"] != _digest(content["measured"]):
                raise UserError("its figures were changed after they were written")
            for precision, frames in content["measured"].items():
                made.measured[precision] = {int(index): Frame(**frame) for index, frame in frames.items()}
        except (OSError, ValueError, LookupError, TypeError) as error:
            reporter.log(f"starting the search anew: the journal {made.path} cannot be read ({error})")
        return made

    def add(self, precision: str, frames: Mapping[int, Frame]) -> None:
        """Keep frames of a precision, on disk before this returns. Raises UserError where they cannot be written."""
        self.measured.setdefault(precision, {}).update(frames)
        text = {
            name: {str(index): frame._asdict() for index, frame in known.items()}
            for name, known in self.measured.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A plan claims these figures without rendering them again, hence the digest.
        write_file(self.path, json.dumps({"measured": text, "sha256": _digest(text)}, allow_nan=False))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Trials:
    """Drift of precisions against the reference (T, 3, H, W), each frame rendered once and remembered."""

    def __init__(
        self,
        simulator: Simulator,
        reference: Tensor,
        base: ComputeType,
        journal: Journal,
        reporter: Reporter = SILENT,
    ) -> None:
        self.simulator, self.reference, self.base = simulator, reference, base
        self.journal, self.reporter = journal, reporter
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
        """Drift over these frames of any precision; one that quantizes needs a simulator with ranges."""
        content = dataclasses.asdict(precision) | {"name": "", "why": "", "keep_nodes": sorted(precision.keep_nodes)}
        content["only_nodes"] = None if precision.only_nodes is None else sorted(precision.only_nodes)
        name = _digest(content)[:32]
        known = self.journal.measured.get(name, {})
        missing = [index for index in frames if index not in known]
        if missing:
            self.reporter.progress("trying precisions", self.rendered, None)
            self.rendered += 1
            drift = measure_drift(self.reference[missing], self.simulator.frames(precision, missing))
            values = map(Frame, drift.psnr_db, drift.ssim, drift.max_lsb, drift.non_finite)
            self.journal.add(name, dict(zip(missing, values, strict=True)))
        known = self.journal.measured[name]
        psnr_db, ssim, max_lsb, non_finite = zip(*(known[index] for index in frames), strict=True)
        return Drift(psnr_db, ssim, max_lsb, non_finite)


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
        operators=True,
    )
