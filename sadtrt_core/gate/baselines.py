"""Finds committed baselines and writes new ones, the latter only when somebody asked for it."""

from __future__ import annotations

import json
from pathlib import Path

from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import ENVIRONMENT_FILE, RECORDS_FILE, SUMMARY_FILE, write_run
from sadtrt_core.report.tables import summary_csv

BASELINES_FOLDER = "baselines"


def find_baseline(results: Path, name: str) -> Path:
    """The baseline called `name`: a path that exists, or a folder or .json file in `<results>/baselines/`.

    Raises UserError that lists the baselines there are.
    """
    folder = Path(results) / BASELINES_FOLDER
    for path in (Path(name), folder / name, folder / f"{name}.json"):
        if path.exists():
            return path
    known = sorted(path.stem if path.suffix == ".json" else path.name for path in folder.glob("[!.]*"))
    there = f"there are {', '.join(known)}" if known else "there are none yet: sadtrt gate --update writes one"
    raise UserError(f"no baseline {name!r} in {folder}; {there}")


def baseline_path(results: Path, name: str) -> Path:
    """Where a baseline called `name` is written: in `<results>/baselines/` for a plain name, else at that path."""
    plain = Path(name).name == name and not name.startswith(".")
    return Path(results) / BASELINES_FOLDER / name if plain else Path(name)


def write_baseline(run: Run, path: Path) -> None:
    """Make `run` the baseline at `path`: one file where the name ends in .json, else a folder with the CSV beside it.

    Raises UserError for a run that could not serve as one: unfinished, or without a measurement.
    """
    path = Path(path)
    if not run.complete:
        raise UserError("an interrupted run cannot become a baseline: run it to the end")
    if not any(record.status == "measured" for record in run.records):
        raise UserError("a run that measured nothing cannot become a baseline")
    try:
        (path.parent if path.suffix == ".json" else path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make a folder for the baseline {path}: {error.strerror or error}") from error
    if path.suffix == ".json":
        write_run(run, path)
        return
    write_file(path / SUMMARY_FILE, summary_csv(run))
    environment = json.dumps(run.environment.to_json(), indent=2, sort_keys=True)
    write_file(path / ENVIRONMENT_FILE, environment + "\n")
    write_run(run, path / RECORDS_FILE)
