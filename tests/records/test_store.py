from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_examples import ENVIRONMENT, WEIGHTS, WORKLOAD, drift, key, latency, measured, run_of, runs

from sadtrt_core.errors import UserError
from sadtrt_core.records import store
from sadtrt_core.records.measurements import Resources, Telemetry
from sadtrt_core.records.schema import Record, Run, Weights
from sadtrt_core.records.store import RunWriter, read_run, write_run
from sadtrt_core.report.tables import summary_csv

EXAMPLES = Path(__file__).parents[1]
REUSED_FOLDER = [HealthCheck.function_scoped_fixture]


def writer_in(root: Path, **changes: object) -> RunWriter:
    parts = {"environment": ENVIRONMENT, "weights": WEIGHTS, "workload": WORKLOAD, "options": {}, **changes}
    return RunWriter(root, **parts)


@settings(max_examples=60, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(runs)
def test_what_is_written_is_read_back(tmp_path: Path, run: Run) -> None:
    write_run(run, tmp_path / "records.json")
    assert read_run(tmp_path / "records.json") == run


@settings(max_examples=300, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_single_changed_byte_is_noticed_or_harmless(tmp_path: Path, where: float, byte: int) -> None:
    run = run_of(measured(latency=latency(disturbed=(3,))), Record(key("decode"), "skipped", "no GPU"))
    path = tmp_path / "records.json"
    write_run(run, path)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] = byte
    path.write_bytes(content)
    try:
        found = read_run(path)
    except UserError:
        return  # Noticed.
    assert found == run


@settings(max_examples=60, deadline=None, suppress_health_check=REUSED_FOLDER)
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path: Path, where: float) -> None:
    path = tmp_path / "records.json"
    write_run(run_of(measured()), path)
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: int(where * len(content))])
    with pytest.raises(UserError, match="truncated"):
        read_run(path)


def test_a_finished_run_has_its_files_and_latest_points_at_it(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    writer.add(measured())
    finished = writer.finish(summary_csv)
    assert finished.complete
    assert writer.folder.name.endswith("Z-nvidia-h200-abcdef1234")
    assert (tmp_path / "latest").is_symlink()
    assert os.readlink(tmp_path / "latest") == writer.folder.name
    assert read_run(tmp_path / "latest") == read_run(writer.folder) == finished
    assert json.loads((writer.folder / "environment.json").read_text())["gpu"] == "NVIDIA H200"
    assert (writer.folder / "summary.csv").read_text().startswith("stage,runner,precision,")
    assert sorted(path.name for path in writer.folder.iterdir()) == ["environment.json", "records.json", "summary.csv"]
    second = writer_in(tmp_path)
    second.finish(summary_csv)
    assert os.readlink(tmp_path / "latest") == second.folder.name


def test_without_symlinks_a_text_file_points_at_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no symlinks here")

    monkeypatch.setattr(os, "symlink", refuse)
    writer = writer_in(tmp_path)
    writer.finish(summary_csv)
    assert (tmp_path / "latest.txt").read_text().strip() == writer.folder.name
    assert read_run(tmp_path / "latest") == writer.run
    (tmp_path / "latest.txt").write_text("../../etc")
    with pytest.raises(UserError, match="should hold the name of a folder beside it"):
        read_run(tmp_path / "latest")


def test_latest_that_is_a_real_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "mine").touch()
    writer = writer_in(tmp_path)
    with pytest.raises(UserError, match="move away what is there"):
        writer.finish(summary_csv)
    assert (tmp_path / "latest" / "mine").exists()
    assert read_run(writer.folder).complete


def test_runs_started_in_the_same_second_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "utc_now", lambda: datetime(2025, 1, 31, 12, tzinfo=timezone.utc))
    with ThreadPoolExecutor(8) as pool:
        writers = list(pool.map(lambda _: writer_in(tmp_path), range(8)))
    assert len({writer.folder for writer in writers}) == 8
    for index, writer in enumerate(writers):
        writer.add(measured(key(batch=index + 1)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda writer: writer.finish(summary_csv), writers))
    for index, writer in enumerate(writers):
        assert [record.key.batch for record in read_run(writer.folder).records] == [index + 1]
    assert read_run(tmp_path / "latest").complete


def test_latency_and_drift_of_one_key_become_one_record(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    clocks = Telemetry((1.0, 2.0, 3.0), None, None, None)
    writer.add(
        Record(key(), "measured", latency=latency(), resources=Resources(100.0, 5.0), telemetry=clocks, notes=("a",))
    )
    writer.add(Record(key(), "measured", drift=drift(), resources=Resources(300.0, None), notes=("a", "b")))
    (record,) = read_run(writer.folder).records
    assert record == Record(
        key(), "measured", None, latency(), drift(), Resources(300.0, 5.0), clocks, notes=("a", "b")
    )


def test_a_failure_outweighs_and_a_skip_is_outweighed(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    writer.add(Record(key(), "measured", latency=latency()))
    failed = writer.add(Record(key(), "failed", "the runner died"))
    assert (failed.status, failed.reason) == ("failed", "the runner died")
    assert failed.latency == latency()
    writer.add(Record(key("warp"), "skipped", "no frames"))
    kept = writer.add(Record(key("warp"), "measured", latency=latency()))
    assert (kept.status, kept.reason) == ("measured", None)
    assert kept.notes == ("one part was skipped: no frames",)


def test_measuring_a_part_twice_is_said(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    writer.add(Record(key(), "measured", latency=latency(seed=1)))
    kept = writer.add(Record(key(), "measured", latency=latency(seed=2)))
    assert kept.latency == latency(seed=2)
    assert kept.notes == ("latency was measured more than once: the last is kept",)


def test_a_rows_times_are_brought_up_to_date_and_the_rest_of_its_record_stays(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    writer.add(measured(notes=("kept",)))
    more = latency(seed=7, visits=(0, 30))
    writer.update_times(key(), more, Telemetry(None, None, None, None, others_percent=1.0))
    (record,) = read_run(writer.folder).records
    assert (record.latency, record.drift, record.notes) == (more, drift(), ("kept",))
    assert record.telemetry.others_percent == 1.0
    writer.add(Record(key(), "failed", "died at a later visit"))
    (record,) = read_run(writer.folder).records
    assert (record.status, record.latency) == ("failed", more), "what was measured before it failed is kept"
    with pytest.raises(UserError, match="holds no record of warp/"):
        writer.update_times(key("warp"), more, None)


def test_benchmark_versions_of_one_key_must_agree(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    writer.add(Record(key(), "measured", latency=latency()))
    with pytest.raises(UserError, match="must share a version"):
        writer.add(Record(key(), "measured", drift=drift(), benchmark_version=2))
    assert read_run(writer.folder).records[0].drift is None


def test_drift_under_seeded_weights_is_marked(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, weights=Weights("seeded", "by name", "d"))
    writer.add(measured())
    assert not read_run(writer.folder).records[0].drift.meaningful


def test_a_value_of_a_wrong_type_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cpu_count should be a whole number but is None"):
        writer_in(tmp_path, environment=dataclasses.replace(ENVIRONMENT, cpu_count=None))
    assert list(tmp_path.iterdir()) == []
    writer = writer_in(tmp_path)
    with pytest.raises(UserError, match="steady should be true or false"):
        writer.add(measured(latency=latency(steady=1)))
    assert read_run(writer.folder).records == ()


def test_a_killed_run_stays_readable_and_incomplete(tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(EXAMPLES)!r})
        from pathlib import Path
        from record_examples import *
        from sadtrt_core.records.store import RunWriter
        writer = RunWriter(Path({str(tmp_path)!r}), ENVIRONMENT, WEIGHTS, WORKLOAD, {{}})
        writer.add(measured())
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    run = read_run(folder)
    assert not run.complete
    assert run.records == (measured(),)


@pytest.mark.skipif(os.name != "posix", reason="the limit on a file's size is a POSIX resource limit")
def test_a_full_disk_in_the_middle_of_a_run_keeps_what_was_written(tmp_path: Path) -> None:
    # A limit on the size of files fails a write half-way through, as a full disk does.
    script = f"""
        import resource, sys
        sys.path.insert(0, {str(EXAMPLES)!r})
        from pathlib import Path
        from record_examples import *
        from sadtrt_core.errors import UserError
        from sadtrt_core.records.store import RunWriter
        writer = RunWriter(Path({str(tmp_path)!r}), ENVIRONMENT, WEIGHTS, WORKLOAD, {{}})
        writer.add(measured())
        size = (writer.folder / "records.json").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
        try:
            writer.add(measured(key("decode")))
        except UserError as error:
            print(error)
        print(len(writer.run.records))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=True, capture_output=True, text=True
    )
    message, count = done.stdout.splitlines()
    assert message.startswith(f"cannot write {tmp_path}")
    assert "free some space" in message
    assert count == "1"
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["records.json"]
    run = read_run(folder)
    assert not run.complete
    assert run.records == (measured(),)


def test_a_full_disk_at_the_end_never_leaves_a_complete_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_in(tmp_path)
    writer.add(measured())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            writer.finish(summary_csv)
    assert [path.name for path in writer.folder.iterdir()] == ["records.json"]
    assert not read_run(writer.folder).complete
    assert not (tmp_path / "latest").exists()
    assert writer.finish(summary_csv).complete


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make a results folder in .*file.*choose a folder"):
        writer_in(tmp_path / "file" / "results")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(UserError, match="Read-only file system"):
        writer_in(tmp_path / "results")


def test_a_results_folder_made_read_only_during_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_in(tmp_path)
    writer.add(measured())

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", read_only)
        with pytest.raises(UserError, match=r"cannot write .*records.json: Read-only file system"):
            writer.add(measured(key("decode")))
    assert len(read_run(writer.folder).records) == len(writer.run.records) == 1
    assert [path.name for path in writer.folder.iterdir()] == ["records.json"]


def rewritten(path: Path, change: object) -> Path:
    """A records file with its content changed and, as somebody editing it might, its digest made to fit again."""
    write_run(run_of(measured()), path)
    data = json.loads(path.read_text())
    change(data)
    data["sha256"] = store._digest(data["run"])
    path.write_text(json.dumps(data))
    return path


def test_another_schema_version_is_named(tmp_path: Path) -> None:
    def change(data: dict) -> None:
        data["schema_version"] = data["run"]["schema_version"] = 7
        data["run"]["new_in_seven"] = 1

    with pytest.raises(UserError, match="has schema version 7 but this sadtrt reads version 1: measure again"):
        read_run(rewritten(tmp_path / "records.json", change))


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown field 'surprise'"):
        read_run(rewritten(tmp_path / "a.json", lambda data: data.update(surprise=1)))
    with pytest.raises(UserError, match="unknown field 'surprise'"):
        read_run(rewritten(tmp_path / "b.json", lambda data: data["run"]["weights"].update(surprise=1)))


def test_an_edited_figure_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    write_run(run_of(measured(drift=drift((70.5, 72.0)))), path)
    path.write_text(path.read_text().replace("70.5", "79.5"))
    with pytest.raises(UserError, match="changed after it was written"):
        read_run(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not whole JSON"),
        (b"stage,runner\n", "not whole JSON"),
        (b"\xff\xfe", "not whole JSON"),
        (b"[" * 100_000, "not whole JSON"),
        (b'{"run": NaN}', "NaN is not JSON"),
        (b'{"run": {}, "run": {}}', "names a field twice"),
        (b"[]", "not a sadtrt run"),
        (b'{"run": []}', "not a sadtrt run"),
        (b'{"run": {}}', "schema version None"),
        (b'{"schema_version": true, "run": {"schema_version": true}}', "schema version True"),
        (
            b'{"schema_version": 1, "sha256": "0", "run": {"schema_version": 1, "x": 1e999}}',
            "a number that JSON has not",
        ),
        (b'{"schema_version": 1, "sha256": 3, "run": {"schema_version": 1}}', "does not match its sha256"),
        (b"9" * 10_000, "not whole JSON"),
    ],
)
def test_what_is_not_a_run_is_refused_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "records.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot read .*records\.json"):
        read_run(tmp_path)
    with open(tmp_path / "records.json", "wb") as file:
        file.truncate(store.SIZE_LIMIT + 1)
    with pytest.raises(UserError, match="has more than the 67 MB"):
        read_run(tmp_path)
