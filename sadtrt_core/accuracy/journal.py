"""What a search has measured so far, on disk after every candidate, so that a killed search goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sadtrt_core.codec import JsonValue, to_json
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file
from sadtrt_core.precision import Precision

JOURNAL_VERSION = 3


@dataclass(frozen=True)
class Frame(JsonValue):
    """One frame of one candidate against the reference: PSNR in dB, SSIM and LSB as in Drift."""

    psnr_db: float | None
    ssim: float | None
    max_lsb: int
    non_finite: bool


@dataclass(frozen=True)
class _Content(JsonValue):
    version: int
    key: dict[str, str]
    measured: dict[str, dict[str, Frame]]
    sha256: str

    @classmethod
    def of(cls, key: dict[str, str], measured: Mapping[str, Mapping[int, Frame]]) -> _Content:
        """What is written, with the digest of the figures: a plan claims them without rendering them again."""
        text = {name: {str(index): frame for index, frame in sorted(kept.items())} for name, kept in measured.items()}
        figures = json.dumps(to_json(text), sort_keys=True, allow_nan=False)
        return cls(JOURNAL_VERSION, key, text, hashlib.sha256(figures.encode()).hexdigest())


@dataclass
class Journal:
    """Frames of candidates by the candidate's digest and the frame's index.

    `key` says what the figures depend on; a file of another key is never read, because its name holds the key's digest.
    """

    path: Path
    key: dict[str, str]
    measured: dict[str, dict[int, Frame]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, str], say: Callable[[str], None] = lambda line: None) -> Journal:
        """The journal of this key in a folder; empty where there is none, or, as `say` is told, where it is damaged."""
        canonical = json.dumps(dict(key), sort_keys=True)
        path = folder / f"{hashlib.sha256(canonical.encode()).hexdigest()[:24]}.json"
        made = cls(path, dict(key))
        if not path.exists():
            return made
        try:
            content = _Content.from_json(json.loads(path.read_text("utf-8")))
            if content.version != JOURNAL_VERSION or content.key != made.key:
                raise UserError("it belongs to another version or search")
            made.measured = {
                candidate: {int(index): frame for index, frame in frames.items()}
                for candidate, frames in content.measured.items()
            }
            if _Content.of(made.key, made.measured) != content:
                made.measured = {}
                raise UserError("its figures were changed after they were written")
        except (OSError, ValueError) as error:
            say(f"starting the search anew: the journal {path} cannot be read ({error})")
        return made

    def add(self, candidate: str, frames: Mapping[int, Frame]) -> None:
        """Keep a candidate's frames, on disk before this returns. Raises UserError where it cannot be written."""
        self.measured.setdefault(candidate, {}).update(frames)
        content = _Content.of(self.key, self.measured)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, json.dumps(content.to_json(), allow_nan=False))

    def frames(self, candidate: str) -> dict[int, Frame]:
        """What is known of a candidate, by frame."""
        return self.measured.get(candidate, {})


def candidate_digest(precision: Precision) -> str:
    """A name for what a candidate is."""
    text = json.dumps(dataclasses.asdict(precision), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
