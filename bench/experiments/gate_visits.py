"""Would the gate be quieter if a run came back to its rows several times? Decides anew on stored samples.

    python bench/experiments/gate_visits.py results/baselines/gate-experiment-h200

A GPU whose times lie in two states, each lasting seconds, shows a row that is measured once one of them: two runs of
the same code then differ by what the states do. A run that goes round its rows several times sees a row in several
moments; judged by its fastest visit it meets the fast state unless every visit was slow.

Such runs are put together from stored ones: a visit is a stretch of neighbouring samples of one stored run of unchanged
code, drawn at random; a run has as many samples in all as one of today's. Candidate and baseline are drawn from the
same pool. The median over all visits is shown beside the fastest visit. A planted slowdown multiplies the candidate's
samples. The draws are as many as one likes, but the stored runs are few: an estimate, which takes for granted that
visits lie farther apart than a state lasts, so that each is a new draw. What it says has to be measured anew.

On the seven runs of gate-experiment-h200, 200 decisions each, it said of the two TensorRT rows: false alarms of 15% and
5.5% with one visit become 1.5% and 0% with three and 0% and 0.5% with four, judged by the fastest, while a planted 5%
is caught in 98% and 90% with four instead of 84% and 75%. The median of all visits loses planted slowdowns instead (62%
and 44%): a run that holds both states is noisy. PyTorch's row, which waits for its host, stays at 2.5% to 5%: such a
row wants another limit, not more visits.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gate_experiment import Samples

from sadtrt_core.measure import stats
from sadtrt_core.records.gate_latency import latency_findings
from sadtrt_core.records.schema import Latency
from sadtrt_core.records.thresholds import Thresholds

VISITS = (1, 2, 3, 4, 6)
PLANTED = (0.0, 0.03, 0.05)
JUDGED_BY = ("all visits", "fastest visit")


def draw(pool: Sequence[Sequence[float]], visits: int, random: np.random.Generator) -> list[np.ndarray]:
    """The visits of one made-up run: stretches of samples in ms of runs drawn from `pool`, together as many as a run
    of the pool has.
    """
    taken = []
    for which in random.integers(0, len(pool), size=visits):
        samples = np.asarray(pool[which])
        length = max(1, len(samples) // visits)
        start = random.integers(0, len(samples) - length + 1)
        taken.append(samples[start : start + length])
    return taken


def judged(visits: Sequence[np.ndarray], by: str) -> Latency:
    """The samples that a run is judged by."""
    chosen = min(visits, key=np.median) if by == "fastest visit" else np.concatenate(visits)
    times = tuple(float(ms) for ms in chosen)
    return Latency(device_ms=times, host_ms=times, warmup_calls=0, steady=True)


def called_slower(
    pool: Sequence[Sequence[float]], visits: int, by: str, planted: float, decisions: int, rows: int, seed: int = 0
) -> int:
    """How many of so many made-up pairs the gate calls slower, at the significance of one among `rows` rows."""
    random = np.random.default_rng(seed)
    thresholds = Thresholds()
    # Device times alone are judged: the host's are not what is in two states.
    limits = dataclasses.replace(thresholds.limits, host_slowdown_percent=None)
    pairs = []
    for _ in range(decisions):
        slowed = [stretch * (1 + planted) for stretch in draw(pool, visits, random)]
        pairs.append((judged(slowed, by), judged(draw(pool, visits, random), by)))

    def decide(pair: tuple[Latency, Latency]) -> bool:
        findings = latency_findings(*pair, limits, thresholds, thresholds.false_alarm / rows)
        return any(finding.verdict == "slower" for finding in findings)

    with ThreadPoolExecutor() as workers:
        return sum(workers.map(decide, pairs))


def pools(samples: Samples) -> dict[str, list[tuple[float, ...]]]:
    """Device times of every row in the runs of unchanged code. Raises ValueError where there are fewer than two."""
    plain = [item.run for item in samples.stored if item.planted == 0] + samples.fresh
    if len(plain) < 2:
        raise ValueError(f"{len(plain)} stored runs of unchanged code are too few: at least two are needed")
    found: dict[str, list[tuple[float, ...]]] = {}
    for record in (record for run in plain for record in run.records):
        if record.latency is not None and record.latency.device_ms is not None:
            found.setdefault(record.key.label(), []).append(record.latency.device_ms)
    if not found:
        raise ValueError("the stored runs have no device times")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that gate_experiment.py wrote")
    parser.add_argument("--decisions", type=int, default=200, help="for each row, way and number of visits")
    options = parser.parse_args()
    try:
        stored = pools(Samples.read(options.folder))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{options.folder} cannot be judged anew: {error}") from error
    for label, pool in stored.items():
        medians = " ".join(f"{stats.median(samples):.4g}" for samples in pool)
        print(f"{label}: medians of {len(pool)} runs {medians} ms", flush=True)
        for visits in VISITS:
            for by in JUDGED_BY if visits > 1 else JUDGED_BY[:1]:
                counts = (
                    called_slower(pool, visits, by, planted, options.decisions, len(stored)) for planted in PLANTED
                )
                names = ("false alarms", *(f"{100 * planted:g}% caught" for planted in PLANTED[1:]))
                said = ", ".join(
                    f"{name} {100 * count / options.decisions:.1f}%" for name, count in zip(names, counts, strict=True)
                )
                print(f"  {visits} visits, by {by}: {said}", flush=True)


if __name__ == "__main__":
    main()
