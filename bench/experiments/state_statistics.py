"""Two states in a series of times: where they part, what tells them apart, and what a pause has to do with them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from sadtrt_core import stats

SMALLEST_GAP_PERCENT = 1.0
LEAST_EXPLAINED = 0.8
LEAST_SHARE = 0.05
TELLING_AUC = 0.9


@dataclass(frozen=True)
class States:
    """The best parting of times in ms into fast and slow ones; medians of both, and the share of the slow ones.

    `explained` is the part of the variance that the parting takes away: 0.64 for a normal distribution, 0.75 for a
    uniform one, near 1 for two states.
    """

    threshold_ms: float
    fast_ms: float
    slow_ms: float
    share_slow: float
    explained: float

    @property
    def gap_percent(self) -> float:
        """How much slower the slow state is."""
        return 100 * (self.slow_ms / self.fast_ms - 1)

    @property
    def are_two(self) -> bool:
        """Whether these are two states rather than one distribution cut in two."""
        seldom = min(self.share_slow, 1 - self.share_slow)
        return self.explained >= LEAST_EXPLAINED and self.gap_percent >= SMALLEST_GAP_PERCENT and seldom >= LEAST_SHARE

    def sentence(self) -> str:
        parting = (
            f"{self.fast_ms:.4g} and {self.slow_ms:.4g} ms ({self.gap_percent:+.1f}%), "
            f"{100 * self.share_slow:.0f}% slow, {100 * self.explained:.0f}% of the variance explained"
        )
        return f"two states: {parting}" if self.are_two else f"no two states were seen; the best parting is {parting}"

    def to_json(self) -> dict[str, Any]:
        rounded = {name: round(value, 5) for name, value in dataclasses.asdict(self).items()}
        return rounded | {"gap_percent": round(self.gap_percent, 3), "are_two": self.are_two}


def two_states(times_ms: Sequence[float]) -> States:
    """Part times where the variance within both parts is least (Otsu 1979, IEEE Trans. Systems, Man and Cybernetics 9,
    62, over all thresholds). Times beyond 10% from the median count as that far, or a stray one would be a state of its
    own. Raises ValueError for fewer than two times or all alike.
    """
    if len(times_ms) < 2:
        raise ValueError(f"two states need at least two times but there are {len(times_ms)}")
    middle = stats.median(times_ms)
    ordered = np.sort(np.clip(np.asarray(times_ms, dtype=np.float64), 0.9 * middle, 1.1 * middle))
    if ordered[0] == ordered[-1]:
        raise ValueError(f"all {len(ordered)} times are {ordered[0]:g} ms: there is nothing to part")
    count = np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1]
    means = below / count, (ordered.sum() - below) / (len(ordered) - count)
    between = count * (len(ordered) - count) / len(ordered) ** 2 * (means[1] - means[0]) ** 2
    # Between equal times there is no threshold.
    between[ordered[:-1] == ordered[1:]] = -1
    cut = int(np.argmax(between)) + 1
    return States(
        threshold_ms=float(ordered[cut - 1] + ordered[cut]) / 2,
        fast_ms=stats.median(ordered[:cut]),
        slow_ms=stats.median(ordered[cut:]),
        share_slow=1 - cut / len(ordered),
        explained=float(between[cut - 1] / ordered.var()),
    )


def telling(
    times_ms: Sequence[float], states: States, quantities: Mapping[str, Sequence[float | None]]
) -> list[dict[str, Any]]:
    """How each quantity goes with the times, the one that tells most first.

    `rho` is Spearman's rank correlation with the times; `auc` the probability that a slow time has the larger value
    (0.5: tells nothing; 0 or 1: tells everything); None where the quantity never moved or was not known. No
    probabilities are given: neighbours are alike, so that the number of switches counts, not that of the times.
    """
    times = np.asarray(times_ms, dtype=np.float64)
    answers = []
    for name, values in quantities.items():
        known = np.array([value is not None for value in values])
        seen = np.array([value for value in values if value is not None], dtype=np.float64)
        slow = times[known] > states.threshold_ms
        answer: dict[str, Any] = {"quantity": name, "known": len(seen), "rho": None, "auc": None}
        if slow.any() and not slow.all():
            answer |= {"fast": float(np.median(seen[~slow])), "slow": float(np.median(seen[slow]))}
            if seen.min() < seen.max():
                answer["rho"] = round(float(scipy_stats.spearmanr(seen, times[known]).statistic), 3)
                above = scipy_stats.mannwhitneyu(seen[slow], seen[~slow]).statistic
                answer["auc"] = round(float(above) / (slow.sum() * (~slow).sum()), 3)
        answers.append(answer)
    return sorted(answers, key=lambda item: -abs((0.5 if item["auc"] is None else item["auc"]) - 0.5))


def telling_line(answer: Mapping[str, Any]) -> str:
    """One line of a table of `telling`."""
    name = f"{answer['quantity']:28}"
    if not answer["known"]:
        return f"{name} not told by this GPU"
    if "fast" not in answer:
        return f"{name} known in one state only"
    change = f" ({100 * (answer['slow'] / answer['fast'] - 1):+.2f}%)" if answer["fast"] else ""
    levels = f"fast {answer['fast']:.5g}, slow {answer['slow']:.5g}{change}"
    if answer["rho"] is None:
        return f"{name} never moved: {answer['fast']:.5g}"
    mark = " <- tells the states apart" if abs(answer["auc"] - 0.5) >= TELLING_AUC - 0.5 else ""
    return f"{name} rho {answer['rho']:+.2f}, auc {answer['auc']:.2f}, {levels}{mark}"


def visits(begins_s: Sequence[float], slow: Sequence[bool]) -> list[tuple[bool, float]]:
    """State and length in seconds of every stretch of equal states; the last one's goes to the last begin."""
    changes = [0, *(i for i in range(1, len(slow)) if slow[i] != slow[i - 1]), len(slow) - 1]
    return [
        (bool(slow[start]), begins_s[end] - begins_s[start])
        for start, end in itertools.pairwise(changes)
        if end > start
    ]


def by_pause(bursts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each kind and length of pause: bursts, and the median share of slow rounds in them, first half second and
    whole. Each burst has `pause`, `pause_s`, `slow_first` and `slow_all`, shares of 0 to 1.
    """
    kinds = sorted({(burst["pause"], burst["pause_s"]) for burst in bursts})
    answers = []
    for kind, seconds in kinds:
        those = [burst for burst in bursts if (burst["pause"], burst["pause_s"]) == (kind, seconds)]
        answers.append(
            {"pause": kind, "pause_s": seconds, "bursts": len(those)}
            | {name: round(stats.median([burst[name] for burst in those]), 3) for name in ("slow_first", "slow_all")}
        )
    return answers


def pause_correlation(bursts: Sequence[Mapping[str, Any]]) -> float | None:
    """Spearman's rank correlation of the seconds that the GPU idled before a burst with the burst's median time; None
    where either never moved.
    """
    idle = [burst["pause_s"] if burst["pause"] == "idle" else 0.0 for burst in bursts]
    times = [burst["median_ms"] for burst in bursts]
    if len(bursts) < 3 or len(set(idle)) < 2 or len(set(times)) < 2:
        return None
    return round(float(scipy_stats.spearmanr(idle, times).statistic), 3)
