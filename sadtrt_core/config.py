"""What a run is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sadtrt_core.errors import UserError


def default_cache() -> Path:
    """Where graphs, engines and fitted weights are kept: $SADTRT_CACHE, else the user's cache folder."""
    named = os.environ.get("SADTRT_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sadtrt"


@dataclass(frozen=True)
class RunConfig:
    """What a run was asked for. Sizes in pixels, frames and batches in frames."""

    size: int
    weights: str
    checkpoint: Path | None
    mapping_checkpoint: Path | None
    source_image: Path | None
    samples: Path | None
    frames: int
    clip_frames: int | None
    device: str
    grid_sample: str
    cache: Path
    results: Path
    jobs: int
    optimization_level: int = 3
    flush_l2: bool = False
    #: Precisions that will be asked for: plans among them are read once, before anything is measured.
    precisions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("frames", "clip_frames", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be 1 or more but is {value}")
        if self.mapping_checkpoint is not None and self.checkpoint is None:
            raise UserError("--mapping-checkpoint belongs to a --checkpoint, and none was given")
        if self.checkpoint is not None and self.weights != "auto":
            raise UserError(f"--checkpoint and --weights {self.weights} exclude each other: give one of them")
        if self.samples is not None and self.source_image is not None:
            raise UserError("--samples hold a source image of their own: give them or --source-image, not both")

    def as_text(self) -> dict[str, str]:
        """The options as a record keeps them: only names, never paths of the machine that ran them."""
        files = ("checkpoint", "mapping_checkpoint", "source_image", "samples")
        text = {name: path.name for name in files if (path := getattr(self, name)) is not None}
        plain = ("size", "device", "grid_sample", "optimization_level", "flush_l2")
        return text | {name: str(getattr(self, name)) for name in plain} | {"weights": Path(self.weights).name}
