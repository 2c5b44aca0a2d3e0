"""Energy, power and time of one stretch agree, in every record that is stored, or the record is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from record_examples import latency, measured, run_of

from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.verdicts import ExitCode
from sadtrt_core.records.measurements import Resources, Sustained
from sadtrt_core.records.schema import energy_problem
from sadtrt_core.records.store import read_run
from sadtrt_core.report.tables import report_tables, summary_rows

BASELINES = Path(__file__).parents[2] / "results" / "baselines"
#: What the check told of a run when it was made, and its summary says as well; nothing of any other.
KNOWN = {
    "h100-frame-2": ["2.424e+04 mJ a frame, but 435 W for 49.74 ms are 2.165e+04"],
    "h100-frame-5": ["2774 mJ a frame, but 516 W for 4.874 ms are 2514"],
    "h100-generator": ["2.241e+04 mJ a frame, but 472 W for 52.81 ms are 2.494e+04"],
}
#: 500 frames in 2 s at 600 W: 4 ms and 2400 mJ a frame.
STRETCH = Sustained(500, 2.0, power_w=600.0, power_limit_w=700.0, sm_clock_mhz=(1700.0, 1755.0, 1800.0))
SOUND = measured(resources=Resources(900.0, 220.0, 2400.0, load_s=0.25, first_call_ms=31.0), sustained=STRETCH)


@pytest.mark.parametrize("folder", [path.parent.name for path in sorted(BASELINES.glob("*/records.json"))])
def test_every_stored_energy_is_power_times_time_of_its_own_window(folder: str) -> None:
    told = [problem for one in read_run(BASELINES / folder).records if (problem := energy_problem(one))]
    assert told == KNOWN.get(folder, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 1.5}, "2400 mJ a frame, but 600 W for 3 ms are 1800"),  # Of a window of another speed.
        ({"power_w": 777.0, "seconds": 2.0 * 600 / 777}, "777 W on a board that may draw 700 W"),
        ({"power_w": 500.0}, "2400 mJ a frame, but 500 W for 4 ms are 2000"),
        ({"power_w": 620.0, "seconds": 1.9}, None),
        ({"power_w": None}, None),
    ],
)
def test_a_record_whose_energy_is_of_another_window_is_told(changes: dict[str, float], words: str | None) -> None:
    planted = replace(SOUND, sustained=replace(STRETCH, **changes))
    problem = energy_problem(planted)
    assert problem == words
    (table,) = (one for one in report_tables(run_of(planted)) if one.title == "Cold start, and back to back")
    cell = dict(zip(table.headings, table.rows[0], strict=True))["mJ a frame"]
    assert cell == ("2,400 !" if words else "2,400")
    told = summary_rows(run_of(planted))["energy_problem"][0]
    assert pd.isna(told) if words is None else told == words


def test_energy_in_doubt_is_judged_neither_way_and_said() -> None:
    """Half the energy at the same power and time would hide, and twice of it invent, a heavier row."""
    for factor in (0.5, 2.0):
        energy = factor * (SOUND.resources.energy_mj_per_frame or 0.0)
        doubted = replace(SOUND, resources=replace(SOUND.resources, energy_mj_per_frame=energy))
        for new, old in ((doubted, SOUND), (SOUND, doubted)):
            result = compare_runs(run_of(replace(new, latency=latency(seed=9))), run_of(old), Thresholds())
            assert result.exit_code == ExitCode.PASS
            assert f"energy_mj_per_frame was not judged: {energy:.4g} mJ a frame, but 600 W" in result.rows[0].detail
    grown = replace(SOUND, resources=replace(SOUND.resources, energy_mj_per_frame=3120.0))
    grown = replace(grown, sustained=replace(STRETCH, seconds=2.6), latency=latency(seed=9))
    assert compare_runs(run_of(grown), run_of(SOUND), Thresholds()).exit_code == ExitCode.REGRESSION


def test_the_table_shows_the_windows_own_speed_power_and_limit() -> None:
    (table,) = (one for one in report_tables(run_of(SOUND)) if one.title == "Cold start, and back to back")
    cells = dict(zip(table.headings, table.rows[0], strict=True))
    expected = {"load s": "0.25", "first call ms": "31", "frames/s": "250", "ms a frame": "4", "mean W": "600"}
    assert cells.items() >= (expected | {"limit W": "700", "SM MHz": "1700 to 1800", "mJ a frame": "2,400"}).items()
