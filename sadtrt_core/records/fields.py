"""Fields of a record's parts: plain numbers within bounds, checked when a part is made."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST_MS = 1e9
"""No call takes eleven days; sums and ratios of such times are finite."""
MOST_DB = 1000.0
"""The largest and the least float32, squared, are 770 and 900 dB from one."""


def set_numbers(instance: object, *names: str, most: float = math.inf) -> None:
    """Make these fields, as far as they are known, plain numbers. Raises ValueError below 0 and above `most`."""
    for name in names:
        if (value := getattr(instance, name)) is not None:
            set_fields(instance, **{name: finite(name, value)})
            if not 0 <= value <= most:
                limit = "" if most == math.inf else f" or above {most:g}"
                raise ValueError(f"{name} must not be negative{limit} but is {value}")


def set_spreads(instance: object, *names: str) -> None:
    """Make these fields, as far as they are known, minimum, median and maximum. Raises ValueError for another order."""
    for name in names:
        if (spread := getattr(instance, name)) is not None:
            low, middle, high = (finite(name, value) for value in spread)
            if not low <= middle <= high:
                raise ValueError(f"{name} must be (minimum, median, maximum) but is {spread}")
            set_fields(instance, **{name: (low, middle, high)})


def set_fields(instance: object, **values: object) -> None:
    """Set fields of a frozen dataclass, as its `__post_init__` may."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def finite(name: str, value: float | None) -> float:
    """The value as a plain number. Raises ValueError for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number but is {value}")
    return float(value)


def milliseconds(name: str, samples: Iterable[float]) -> tuple[float, ...]:
    """Samples as plain numbers. Raises ValueError where there is none, and outside 0 to MOST_MS."""
    values = tuple(finite(name, value) for value in samples)
    if not values:
        raise ValueError(f"{name} needs at least one sample")
    if min(values) < 0:
        raise ValueError(f"{name} must not be negative but holds {min(values)}")
    if max(values) > MOST_MS:
        raise ValueError(f"{name} must be at most {MOST_MS:g} ms but holds {max(values)}")
    return values


def decibels(name: str, values: Iterable[float | None], flags: tuple[bool, ...]) -> tuple[float | None, ...]:
    """PSNR of frames: infinity becomes None (identical). Raises ValueError for anything else that is not finite and has
    no flag, and beyond MOST_DB.
    """
    values = tuple(values)
    for value, flag in zip(values, flags, strict=True):
        if value is not None and math.isfinite(value) and abs(value) > MOST_DB:
            raise ValueError(f"{name} must lie within {MOST_DB:g} dB but is {value}")
        if not (flag or value is None or value == math.inf or math.isfinite(value)):
            raise ValueError(f"{name} is {value} for a frame that is not marked non-finite")
    return tuple(float(value) if value is not None and math.isfinite(value) else None for value in values)
