"""The measured parts of a record: latency, drift, resources and telemetry, checked when made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sadtrt_core import stats
from sadtrt_core.codec import JsonValue
from sadtrt_core.records.fields import decibels, finite, milliseconds, set_fields, set_numbers, set_spreads

PSNR_CEILING_DB = 120.0
"""What one frame's PSNR counts for at most in a minimum or mean, so that identical frames have a number too.

120 dB is a root-mean-square error of 1e-6 of the peak: below the rounding of fp32 arithmetic through a deep network.
"""
Spread = tuple[float, float, float]
"""Minimum, median and maximum of a quantity over one measurement."""


@dataclass(frozen=True)
class Latency(JsonValue):
    """Raw samples in milliseconds for one call of a stage; `device_ms` is None where no device clock exists (a CPU).

    `device_ms` comes from device events, `host_ms` from the host's clock around a synchronised call. `steady` says that
    the clocks and times had settled before the first sample and stayed so, through each repetition; `disturbed` are
    the indices of samples during which a clock dropped or a throttle reason was seen (kept and counted, only marked).
    `visits` are the indices of each repetition's first sample (measure/interleave.py), the first 0; it is empty where
    all samples were taken in one stretch, as in older records. `late` are the indices of launch-bound samples, whose
    device time includes waiting for the host (measure/timing.py; kept, only marked).
    """

    device_ms: tuple[float, ...] | None
    host_ms: tuple[float, ...]
    warmup_calls: int
    steady: bool
    disturbed: tuple[int, ...] = ()
    visits: tuple[int, ...] = ()
    late: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        set_fields(self, host_ms=milliseconds("host_ms", self.host_ms))
        if self.device_ms is not None:
            set_fields(self, device_ms=milliseconds("device_ms", self.device_ms))
        longest = max(len(self.host_ms), len(self.device_ms or ()))
        for name, count in (("disturbed", longest), ("late", len(self.device_ms or ()))):
            indices = getattr(self, name)
            if any(not 0 <= index < count for index in indices):
                raise ValueError(f"{name} names a sample outside the {count} that were taken: {indices}")
            if len(set(indices)) < len(indices):
                raise ValueError(f"{name} names a sample twice: {indices}")
        shortest = min(len(self.host_ms), len(self.judged_ms))
        if self.visits and (self.visits[0] != 0 or self.visits[-1] >= shortest):
            raise ValueError(f"visits should begin at sample 0 and end within the {shortest} taken: {self.visits}")
        if any(later <= earlier for earlier, later in itertools.pairwise(self.visits)):
            raise ValueError(f"visits should name each first sample once, in order: {self.visits}")

    @property
    def device_ms_median(self) -> float | None:
        return None if self.device_ms is None else stats.median(self.device_ms)

    @property
    def host_ms_median(self) -> float:
        return stats.median(self.host_ms)

    @property
    def judged_ms(self) -> tuple[float, ...]:
        """The samples a ratio or a gate judges by, in ms: the device's where there is one, else the host's."""
        return self.host_ms if self.device_ms is None else self.device_ms

    @property
    def launch_bound(self) -> bool:
        """Whether most device times include waiting for the host."""
        return 2 * len(self.late) > len(self.judged_ms)

    def repetitions(self, clock: str | None = None, without: Collection[int] = ()) -> tuple[tuple[float, ...], ...]:
        """The samples of a clock, "device_ms" or "host_ms" (the judged ones for None), repetition by repetition.

        `without` are indices of samples to leave out; of a repetition that has no others nothing is left.
        """
        times: tuple[float, ...] = self.judged_ms if clock is None else getattr(self, clock)
        edges = itertools.pairwise((*(self.visits or (0,)), len(times)))
        parts = (tuple(times[index] for index in range(a, b) if index not in without) for a, b in edges)
        return tuple(part for part in parts if part)


@dataclass(frozen=True)
class Drift(JsonValue):
    """How far each frame is from the reference's, one entry a frame.

    psnr_db: decibels at peak 1.0 of what is shown, that is frames clipped to 0..1 (since benchmark version 5); None
    where it has no finite value, that is an identical frame, or, where `non_finite` is set for the frame, a NaN or
    infinity in the picture. ssim: 0 to 1 on uint8 frames, None for a non-finite frame. max_lsb: largest uint8
    difference. flicker_db: PSNR of frame-to-frame differences within a face, may be empty; None as in psnr_db.
    `meaningful` is False under seeded weights; `reference` names what was compared with. Infinities and NaN given to
    the constructor become None; a NaN for a frame that is not marked non-finite is refused.

    What follows is empty where it was not measured, decibels are None as in psnr_db. `faces` names the source pictures,
    each of as many frames, one after the other. unclipped_db: PSNR of the frames as rendered. tile_db, tile_at: PSNR of
    each frame's worst tile of 16 x 16 pixels, and the x and y of its first pixel. face_db: PSNR of the face region.
    flip, flip_most: NVIDIA's FLIP, mean and largest pixel, None for a frame that was not looked at. encoded_db,
    codec_db: after H.264, the candidate's and the reference's own, both against the reference as it is, for the frames
    that were encoded; tile_encoded_db: the same two in the worst tile of one of these frames (measure/seen.py).
    """

    psnr_db: tuple[float | None, ...]
    ssim: tuple[float | None, ...]
    max_lsb: tuple[int, ...]
    non_finite: tuple[bool, ...]
    flicker_db: tuple[float | None, ...] = ()
    meaningful: bool = True
    reference: str = "pytorch fp32"
    faces: tuple[str, ...] = ()
    unclipped_db: tuple[float | None, ...] = ()
    tile_db: tuple[float | None, ...] = ()
    tile_at: tuple[tuple[int, int], ...] = ()
    face_db: tuple[float | None, ...] = ()
    flip: tuple[float | None, ...] = ()
    flip_most: tuple[float | None, ...] = ()
    encoded_db: tuple[float | None, ...] = ()
    codec_db: tuple[float | None, ...] = ()
    tile_encoded_db: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        flags = tuple(bool(flag) for flag in self.non_finite)
        frames = len(flags)
        if not frames:
            raise ValueError("drift needs at least one frame")
        for name in ("psnr_db", "ssim", "max_lsb"):
            if len(getattr(self, name)) != frames:
                raise ValueError(f"drift has {frames} frames but {len(getattr(self, name))} values of {name}")
        for name in ("unclipped_db", "tile_db", "tile_at", "face_db", "flip", "flip_most"):
            if len(getattr(self, name)) not in (0, frames):
                raise ValueError(f"drift has {frames} frames but {len(getattr(self, name))} values of {name}")
        if len(self.tile_at) != len(self.tile_db) or len(self.codec_db) != len(self.encoded_db):
            raise ValueError("drift has tiles without places, or encoded frames without the codec's own")
        if len(self.tile_encoded_db) not in (0, 2):
            raise ValueError(f"tile_encoded_db is a pair but has {len(self.tile_encoded_db)} values")
        if self.faces and frames % len(self.faces):
            raise ValueError(f"drift has {frames} frames, which {len(self.faces)} faces cannot share evenly")
        for name in ("psnr_db", "unclipped_db", "tile_db", "face_db"):
            if values := getattr(self, name):
                set_fields(self, **{name: decibels(name, values, flags)})
        # A flicker value belongs to a pair of frames, so a broken frame anywhere may explain a NaN.
        anywhere = (any(flags),) * len(self.flicker_db)
        ssim = tuple(None if flag else finite("ssim", value) for value, flag in zip(self.ssim, flags, strict=True))
        set_fields(self, non_finite=flags, max_lsb=tuple(map(int, self.max_lsb)), ssim=ssim)
        set_fields(self, flicker_db=decibels("flicker_db", self.flicker_db, anywhere))

    @property
    def psnr_min(self) -> float:
        """Lowest PSNR in dB, each frame counted at most PSNR_CEILING_DB; NaN if any frame is non-finite."""
        return self._least(capped(self.psnr_db))

    @property
    def psnr_mean(self) -> float:
        """Mean PSNR over frames in dB, a frame counted at most PSNR_CEILING_DB (an identical one exactly that)."""
        return math.nan if self.has_non_finite else math.fsum(capped(self.psnr_db)) / len(self.psnr_db)

    @property
    def ssim_min(self) -> float:
        """Lowest SSIM; NaN if any frame is non-finite."""
        return self._least(value for value in self.ssim if value is not None)

    @property
    def max_lsb_worst(self) -> int:
        """Largest uint8 difference over all frames, in least significant bits."""
        return max(self.max_lsb)

    @property
    def flicker_min(self) -> float | None:
        """Lowest flicker PSNR in dB, capped as psnr_min; None where not measured, NaN with a non-finite frame."""
        return self._least(capped(self.flicker_db)) if self.flicker_db else None

    def _least(self, values: Iterable[float]) -> float:
        return math.nan if self.has_non_finite else min(values)

    @property
    def frames_per_face(self) -> int:
        """How many frames each face has; all of them where none is named."""
        return len(self.non_finite) // max(1, len(self.faces))

    @property
    def worst_frame(self) -> int:
        """Index of the first non-finite frame, else of the frame with the lowest PSNR."""
        if self.has_non_finite:
            return self.non_finite.index(True)
        decibels = capped(self.psnr_db)
        return decibels.index(min(decibels))

    @property
    def has_non_finite(self) -> bool:
        """Whether any frame has a NaN or infinity."""
        return any(self.non_finite)


@dataclass(frozen=True)
class Resources(JsonValue):
    """Peak GPU memory and engine file in MB (1e6 bytes), energy in millijoules a frame; None where not measured.

    `load_s` is what loading took, from the engine's or graph's file or the renderer's weights, in seconds, and
    `first_call_ms` the first call after it, in which algorithms are searched, code compiled and CUDA graphs captured.
    """

    gpu_memory_mb: float | None
    engine_mb: float | None
    energy_mj_per_frame: float | None = None
    load_s: float | None = None
    first_call_ms: float | None = None

    def __post_init__(self) -> None:
        set_numbers(self, *vars(self))


@dataclass(frozen=True)
class Sustained(JsonValue):
    """A stretch of calls without a pause: the window that energy is of, whose speed is its own.

    `frames` were made in `seconds` of the host's clock. Meanwhile the board drew `power_w` on average, by its power
    sensor, of at most `power_limit_w` that it may draw, at `sm_clock_mhz`; None for what nothing told.
    """

    frames: int
    seconds: float
    power_w: float | None = None
    power_limit_w: float | None = None
    sm_clock_mhz: Spread | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 < self.seconds < math.inf:
            raise ValueError(f"a stretch has frames and a length but has {self.frames} in {self.seconds} s")
        set_numbers(self, "power_w", "power_limit_w")
        set_spreads(self, "sm_clock_mhz")

    @property
    def ms_per_frame(self) -> float:
        return 1e3 * self.seconds / self.frames

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds


@dataclass(frozen=True)
class Telemetry(JsonValue):
    """Minimum, median and maximum over one measurement.

    Clocks in MHz, temperature in deg C, power of the board in W, memory in use on the whole device in MB (1e6 bytes).
    How the host was (measure/host_load.py): `others_percent` of its processors' time was other processes', the
    measuring process waited for a processor for `waited_percent` of the time, a fixed computation took `yardstick_ms`.
    """

    sm_clock_mhz: Spread | None
    memory_clock_mhz: Spread | None
    temperature_c: Spread | None
    power_w: Spread | None
    throttle_reasons: tuple[str, ...] = ()
    memory_used_mb: Spread | None = None
    others_percent: float | None = None
    waited_percent: float | None = None
    yardstick_ms: float | None = None

    def __post_init__(self) -> None:
        set_numbers(self, "others_percent", "waited_percent", most=100.0)
        set_numbers(self, "yardstick_ms")
        set_spreads(self, "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "memory_used_mb")


def capped(values: Iterable[float | None], ceiling: float = PSNR_CEILING_DB) -> tuple[float, ...]:
    """Decibels with `ceiling` for what is identical or above it."""
    return tuple(ceiling if value is None else min(value, ceiling) for value in values)
