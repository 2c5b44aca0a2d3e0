"""Finds committed baselines and writes new ones, the latter only when somebody asked for it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from sadtrt_core.codec import json_digest
from sadtrt_core.errors import UserError
from sadtrt_core.files import write_file
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import (
    ENVIRONMENT_FILE,
    FRAMES_FOLDER,
    LATEST,
    RECORDS_FILE,
    SUMMARY_FILE,
    read_run,
    write_run,
)
from sadtrt_core.report.tables import summary_csv

BASELINES_FOLDER = "baselines"
#: Other runs of the baseline's code, one file each: how much times vary from run to run.
FURTHER_FOLDER = "runs"
#: What a folder may hold that was made of its records.
DERIVED_FILES = ("report.html", "pareto.svg", "pareto.png")


def find_baseline(results: Path, name: str) -> Path:
    """The baseline called `name`: a path that exists, or a folder or .json file in `<results>/baselines/`.

    Raises UserError that lists the baselines there are.
    """
    folder = Path(results) / BASELINES_FOLDER
    for path in (Path(name), folder / name, folder / f"{name}.json"):
        # Path.exists raises for a name that is too long.
        if os.path.exists(path):
            return path
    known = sorted(path.stem if path.suffix == ".json" else path.name for path in folder.glob("[!.]*"))
    there = f"there are {', '.join(known)}" if known else "there are none yet: sadtrt gate --update writes one"
    raise UserError(f"no baseline {name!r} in {folder}; {there}")


def baseline_path(results: Path, name: str) -> Path:
    """Where a baseline called `name` is written: in `<results>/baselines/` for a plain name, else at that path.

    Raises UserError for no name.
    """
    if not name.strip():
        raise UserError("--baseline is empty: give the baseline a name")
    plain = Path(name).name == name and not name.startswith(".")
    return Path(results) / BASELINES_FOLDER / name if plain else Path(name)


def write_baseline(run: Run, path: Path) -> None:
    """Make `run` the baseline at `path`: one file where the name ends in .json, else a folder with the CSV beside it.

    An older baseline there is replaced, with whatever was derived from it. Raises UserError for a run that could not
    serve as one, unfinished or without a measurement, and where something else than a baseline stands at `path`.
    """
    path = Path(path)
    _require_whole(run)
    _require_baseline(path)
    try:
        (path.parent if path.suffix == ".json" else path).mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            for name in (FRAMES_FOLDER, FURTHER_FOLDER):
                shutil.rmtree(path / name, ignore_errors=True)
            for name in DERIVED_FILES:
                (path / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot make a folder for the baseline {path}: {error.strerror or error}") from error
    if path.suffix == ".json":
        write_run(run, path)
        return
    write_file(path / SUMMARY_FILE, summary_csv(run))
    environment = json.dumps(run.environment.to_json(), indent=2, sort_keys=True)
    write_file(path / ENVIRONMENT_FILE, environment + "\n")
    write_run(run, path / RECORDS_FILE)


def further_runs(path: Path) -> tuple[Run, ...]:
    """The runs beside the one that the baseline's folder holds, in the order of their names; none of a file."""
    return tuple(read_run(file) for file in sorted((Path(path) / FURTHER_FOLDER).glob("*.json")))


def add_run(run: Run, path: Path) -> Path:
    """Put `run`, of the same code, beside the baseline in the folder `path`; returns its file.

    Raises UserError where there is no such folder with a baseline, or the run could not serve as one, or is of another
    commit, or one of both of changes that no commit has: what code changed would pass for what runs vary by.
    """
    if not Path(path).is_dir():
        raise UserError(f"{path} is no folder with a baseline that a run could be added to: write one with --update")
    _require_whole(run)
    baseline = read_run(path)
    commits = [one.environment.commit for one in (baseline, run)]
    if None not in commits and commits[0] != commits[1]:
        raise UserError(
            f"the baseline {path} is of commit {commits[0]}, the run of {commits[1]}: add runs of the same code"
        )
    for what, one in ((f"the baseline {path}", baseline), ("the run", run)):
        if one.environment.dirty:
            raise UserError(
                f"{what} is of a checkout with changes that are not committed: commit them, and run it anew"
            )
    if run in (baseline, *further_runs(path)):
        raise UserError(f"the baseline {path} holds this run already: add one that was measured anew")
    folder = Path(path) / FURTHER_FOLDER
    folder.mkdir(exist_ok=True)
    # Two may have begun in the same second.
    written = folder / f"{run.started_utc.replace(':', '')}-{json_digest(run.to_json())[:8]}.json"
    write_run(run, written)
    return written


def _require_whole(run: Run) -> None:
    """UserError for a run that could not serve as a baseline."""
    if not run.complete:
        raise UserError("an interrupted run cannot become a baseline: run it to the end")
    if not any(record.status == "measured" for record in run.records):
        raise UserError("a run that measured nothing cannot become a baseline")


def _require_baseline(path: Path) -> None:
    """UserError unless nothing, an empty folder or a baseline is at `path`."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if path.is_dir() and path.parent.name != BASELINES_FOLDER and (path.parent / LATEST).exists():
        raise UserError(f"{path} is a run of its own and no baseline: choose another name")
    try:
        read_run(path)
    except UserError as error:
        raise UserError(f"{path} is there already and is no baseline: choose another name, or move it away") from error
