"""What measuring found: the loss of a picture, and reports of losses, which are shown and kept under results/."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sadtrt_core.codec import to_json
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.records.measurements import Drift
from sadtrt_core.records.store import make_folder, utc_now
from sadtrt_core.session import Session

VERSION = 2
REPORT_FILE = "drift.json"
TABLE_FILE = "drift.txt"
_FILE_WIDTH = 150
_NOISE = "These weights are noise: the figures say nothing about a trained renderer."
_INTERRUPTED = "Interrupted: what had not been measured is missing."


@dataclass(frozen=True)
class Loss:
    """The worst of some frames: minimum PSNR in dB and SSIM (None with a frame that is not finite), largest LSB."""

    psnr_min_db: float | None
    ssim_min: float | None
    max_lsb: int
    non_finite_frames: int

    @classmethod
    def of(cls, drift: Drift) -> Loss:
        """The worst of a drift's frames."""
        broken = drift.has_non_finite
        psnr, ssim = (None, None) if broken else (drift.psnr_min, drift.ssim_min)
        return cls(psnr, ssim, drift.max_lsb_worst, sum(drift.non_finite))

    @property
    def decibels(self) -> float:
        """Minimum PSNR to compare by: minus infinity where a frame is not finite."""
        return -math.inf if self.psnr_min_db is None else self.psnr_min_db

    @property
    def cell(self) -> str:
        """The PSNR for a table."""
        return "not finite" if self.psnr_min_db is None else f"{self.psnr_min_db:.1f}"

    @property
    def at_least(self) -> str:
        """In words that say it is the worst frame's."""
        return str(self) if self.non_finite_frames else f"min {self}"

    def __str__(self) -> str:
        if self.psnr_min_db is None:
            return f"{self.non_finite_frames} frames not finite"
        return f"{self.psnr_min_db:.1f} dB, max LSB {self.max_lsb}"


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


def worst_frames(drift: Drift, count: int) -> tuple[int, ...]:
    """Indices of the frames with the lowest PSNR, broken ones before all, in the order of the sequence."""

    def badness(index: int) -> tuple[bool, float]:
        value = drift.psnr_db[index]
        return (not drift.non_finite[index], math.inf if value is None else value)

    return tuple(sorted(sorted(range(len(drift.psnr_db)), key=badness)[:count]))


def versions(device: torch.device) -> dict[str, str]:
    """What losses depend on beside the weights and the workload."""
    here = read_environment(device)
    commit = f"{here.commit}{' with changes' if here.dirty else ''}" if here.commit else "unknown"
    found = {
        "sadtrt": here.sadtrt_version,
        "commit": commit,
        "torch": here.torch or "unknown",
        "onnxruntime": here.onnxruntime or "unknown",
    }
    if here.gpu is None:
        return found
    return found | {"gpu": here.gpu, "driver": here.driver or "unknown", "tensorrt": here.tensorrt or "none"}


@dataclass(frozen=True)
class Report:
    """The findings of one `sadtrt drift`: `content` for programs, as JSON; `shown` for people, in the order they read.

    `what` is the precision and, before it, how the losses were measured. `complete` is False after an interruption.
    """

    what: str
    content: Mapping[str, Any]
    shown: tuple[RenderableType, ...]
    complete: bool

    @property
    def text(self) -> str:
        """What is shown, without colours, 150 characters wide."""
        drawn = io.StringIO()
        console = Console(file=drawn, width=_FILE_WIDTH, color_system=None, force_terminal=False)
        for one in self.shown:
            console.print(one)
        return drawn.getvalue()

    def write(self, results: Path) -> Path:
        """Keep it as JSON and as text in `<results>/<UTC time>-drift-<what>-<commit>/`; the folder."""
        words = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{self.what}-{self.content['versions']['commit'][:10]}").strip("-")
        name = f"{utc_now():%Y%m%dT%H%M%SZ}-drift-{words}"
        folder = make_folder(results, name)
        write_file(folder / REPORT_FILE, json.dumps(self.content, indent=1, allow_nan=False) + "\n")
        write_file(folder / TABLE_FILE, self.text)
        return folder


def make_report(
    session: Session,
    precision: str,
    frames: Sequence[int],
    findings: Mapping[str, object],
    head: Sequence[str],
    tables: Sequence[Table],
    legend: Sequence[str],
    how: str = "",
) -> Report:
    """A report of losses on some frames of the session's workload.

    `findings` are for the JSON, `complete` among them where an interruption could have cut them short. `how` they were
    measured stands before the precision in the folder's name.
    """
    complete = bool(findings.get("complete", True))
    notes = [*head]
    if not session.drift_is_meaningful:
        notes.append(_NOISE)
    if not complete:
        notes.append(_INTERRUPTED)
    common = {
        "version": VERSION,
        "precision": precision,
        "meaningful": session.drift_is_meaningful,
        "weights": session.renderer.weights,
        "workload": session.recorded_workload,
        "frames": frames,
    }
    content = to_json({**common, **findings, "versions": versions(session.device)}, "report")
    return Report(f"{how}{precision}", content, (*map(Text, notes), *tables, *map(Text, legend)), complete)


def heading(session: Session, what: str, frames: Sequence[int], loss: str = "") -> str:
    """What was measured: on which picture, by which weights, on which frames, and what it lost in all."""
    weights, workload = session.renderer.weights, session.recorded_workload
    under = f"{workload.name}, {workload.size} pixels, under {weights.kind} weights ({weights.name})"
    over = f"over the worst frames ({', '.join(map(str, frames))} of {workload.frames})"
    return f"{what} {under}: {loss} {over}" if loss else f"{what} {under}, {over}"


def table(title: str, first: str, *others: str, width: int = 22) -> Table:
    """An empty table: names of at least so many characters on the left, figures on the right."""
    made = Table(title=title, title_justify="left")
    made.add_column(first, overflow="fold", min_width=width)
    for heading in others:
        made.add_column(heading, justify="right")
    return made
