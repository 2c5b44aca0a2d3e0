"""The estimate of what several visits to a row would do to the gate, on made-up runs whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), *sys.path])


def pool(slow_runs: int, runs: int = 6) -> list[tuple[float, ...]]:
    """Runs of 120 samples, of which the first ones are 4% slower."""
    random = np.random.default_rng(0)
    return [tuple(4.75 * (1.04 if run < slow_runs else 1.0) * random.normal(1, 0.001, 120)) for run in range(runs)]


def test_states_make_false_alarms_that_the_fastest_of_some_visits_does_not():
    from gate_visits import called_slower

    once = called_slower(pool(2), 1, "all visits", 0.0, 60, 3)
    assert 6 <= once <= 22, "a slow candidate meets a fast baseline in 2 of 9 pairs"
    assert called_slower(pool(2), 6, "fastest visit", 0.0, 60, 3) <= 1
    assert called_slower(pool(0), 1, "all visits", 0.0, 60, 3) == 0


def test_a_planted_slowdown_is_still_caught_by_the_fastest_visit():
    from gate_visits import called_slower

    assert called_slower(pool(2), 6, "fastest visit", 0.05, 40, 3) >= 38


def test_a_made_up_run_has_as_many_samples_as_a_stored_one_and_is_judged_by_its_fastest_visit():
    from gate_visits import draw, judged

    random = np.random.default_rng(1)
    visits = draw(pool(3), 4, random)
    assert [len(visit) for visit in visits] == [30] * 4
    assert len(judged(visits, "all visits").device_ms) == 120
    fastest = judged([np.full(5, 4.9), np.full(5, 4.7), np.full(5, 4.8)], "fastest visit")
    assert fastest.device_ms == (4.7,) * 5


def test_too_few_stored_runs_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path):
    import gate_visits
    from gate_experiment import Samples

    with pytest.raises(ValueError, match="0 stored runs of unchanged code are too few"):
        gate_visits.pools(Samples())
    monkeypatch.setattr(sys, "argv", ["gate_visits", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"cannot be judged anew: .*samples\.json"):
        gate_visits.main()
