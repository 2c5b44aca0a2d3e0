"""Options of the session, the fixtures that bench/ composes, and what pytest-benchmark is told about this machine."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.markup import escape

from sadtrt_core.benchmark import prebuild
from sadtrt_core.config import RunConfig, add_options
from sadtrt_core.environment import read_environment
from sadtrt_core.errors import UserError
from sadtrt_core.gate.baselines import find_baseline
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.named import gate_files
from sadtrt_core.gate.output import print_gate
from sadtrt_core.gate.verdicts import ExitCode, GateResult
from sadtrt_core.progress import ConsoleReporter, make_console
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.stages import RENDERING
from sadtrt_core.renderer.workload import FRAMES
from sadtrt_core.report.html import REPORT_FILE, print_summary
from sadtrt_core.rows import rows_of, shuffled
from sadtrt_core.session import Session

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sadtrt", "what to render, in which precisions, with which runners")
    add_options(group.addoption, results=ROOT / "results", gate_thresholds=ROOT / "pyproject.toml")


CONFIG = pytest.StashKey[RunConfig]()
#: What a row's parameters are called.
ROW = ("stage", "runner", "precision", "batch")


class _Uncaptured(ConsoleReporter):
    """Prints at once, also while pytest keeps what a test prints for itself."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(make_console(stderr=True))
        self._capture = config.pluginmanager.getplugin("capturemanager")

    def log(self, line: str) -> None:
        with self._capture.global_and_fixture_disabled():
            super().log(line)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse mistyped options before anything is collected."""
    if config.getoption("benchmark_only", False):
        # What is skipped, and why, is told by the run's own tables.
        config.option.reportchars = "fE"
    if config.option.order_seed is None:
        # Of nothing, or, where there are several processes, of what pytest-xdist gives all of them.
        config.option.order_seed = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(100_000)
    try:
        config.stash[CONFIG] = RunConfig.from_options(vars(config.option))
    except UserError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread a benchmark over the rows that were asked for."""
    if "session" not in metafunc.fixturenames:
        return
    asked = metafunc.config.stash[CONFIG]
    named = [name for name in ROW if name in metafunc.fixturenames]
    if not named:
        return
    # A benchmark that does not ask for a batch is of single frames, of the stages that render one whole.
    if "batch" not in named:
        # On a CPU a frame takes long, and the generator's tells most.
        usual = RENDERING if _on_gpu(metafunc.config) else RENDERING[:1]
        whole = tuple(stage for stage in RENDERING if stage in (asked.stages or usual))
        if not whole:
            reason = pytest.mark.skip(reason=f"drift is of {' and '.join(RENDERING)}: --stage leaves them out")
            metafunc.parametrize(named, [pytest.param(*(None for _ in named), id="none", marks=reason)])
            return
        asked = dataclasses.replace(asked, batches=(1,), stages=whole if "stage" in named else whole[:1])
    rows = [dict(zip(ROW, row, strict=True)) for row in rows_of(asked, _on_gpu(metafunc.config))]
    metafunc.parametrize(named, [tuple(row[name] for name in named) for row in rows])


def _on_gpu(config: pytest.Config) -> bool:
    return torch.cuda.is_available() and config.getoption("device") != "cpu"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the rows of each stage, so that none is always measured after the same other; stages stay together."""
    seed = config.stash[CONFIG].order_seed
    assert seed is not None  # Drawn in pytest_configure.
    groups = itertools.groupby(items, _stage_of)
    items[:] = [item for _, rows in groups for item in shuffled(rows, lambda row: row.nodeid, seed)]


def _stage_of(item: pytest.Item) -> tuple[str, ...]:
    """What the item is shuffled within: its benchmark and stage, or nothing but itself."""
    if "interleaver" not in getattr(item, "fixturenames", ()):
        return (item.nodeid,)
    assert isinstance(item, pytest.Function)
    return (item.originalname, item.callspec.params.get("stage", ""))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Load what the benchmarks render once, so that a wrong file or option is one sentence instead of one a row."""
    wanted = any("session" in getattr(item, "fixturenames", ()) for item in session.items)
    if not wanted or session.config.getoption("collectonly"):
        return
    if not session.config.pluginmanager.hasplugin("benchmark"):
        sentence = "sadtrt: the benchmarks need pytest-benchmark: leave out -p no:benchmark"
        pytest.exit(sentence, returncode=int(pytest.ExitCode.USAGE_ERROR))
    try:
        made = Session(session.config.stash[CONFIG], report=_Uncaptured(session.config))
        made.check()
        if any(saved != _digests(made) for saved in session.config.stash.get(COMPARED, ())):
            raise UserError("the saved benchmark had other weights or inputs: its times say nothing of these")
    except (UserError, OSError) as error:
        pytest.exit(f"sadtrt: {error}", returncode=int(pytest.ExitCode.USAGE_ERROR))
    session.config.stash[SESSION] = made
    session.config.stash[PENDING] = {item.nodeid for item in session.items}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A benchmark that was interrupted, in its last repetition too, stays pending."""
    finished = yield
    item.config.stash.get(PENDING, set()).discard(item.nodeid)
    return finished


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Session:
    """The run that every benchmark records into. Engines of the collected cases are built before the first of them."""
    made = request.config.stash[SESSION]
    _prebuild(made, request)
    return made


def _prebuild(made: Session, request: pytest.FixtureRequest) -> None:
    if not made.on_gpu:
        return
    given = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cases = [
        made.case(params.get("stage", "generator"), params["runner"], params["precision"], params.get("batch", 1))
        for params in given
        if params.get("runner") and params.get("precision")  # Neither in the row that says that none is left.
    ]
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        prebuild(made, cases, make_console())


SESSION = pytest.StashKey[Session]()
PENDING = pytest.StashKey[set[str]]()
GATE = pytest.StashKey[tuple[Path, Thresholds]]()
UNFINISHED = pytest.StashKey[str]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say now, before minutes of measuring, that a run could not be gated."""
    asked = session.config.stash[CONFIG]
    if asked.gate is None:
        return
    try:
        # Resolved now: by the end, `latest` would be the run itself.
        baseline = find_baseline(ROOT / "results", asked.gate).resolve()
        read_run(baseline)
        session.config.stash[GATE] = baseline, Thresholds.read(asked.gate_thresholds)
    except UserError as error:
        pytest.exit(f"--gate: {error}", returncode=int(ExitCode.NOT_COMPARABLE))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """Finish the run and judge it; the last words are the run's own tables, after pytest's and pytest-benchmark's."""
    _finish(session, exitstatus)
    result = _judge(session.config)
    if result is not None:
        # A benchmark that failed is a failure, whatever the rows that were measured say.
        session.exitstatus = result.exit_code or session.exitstatus
    yield
    _print_summary(session.config, result)


def _finish(session: pytest.Session, exitstatus: int) -> None:
    made = session.config.stash.get(SESSION, None)
    # A run that was cut short stays marked incomplete, however it ended: what it measured is readable, but no gate may
    # pass on it.
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    cut_short = session.config.stash.get(PENDING, ()) or session.shouldfail or session.shouldstop
    if made is None or not made.started or not ended or cut_short:
        return
    try:
        made.finish()
    except UserError as error:
        session.config.stash[UNFINISHED] = str(error)
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED


def _judge(config: pytest.Config) -> GateResult | None:
    """The gate's answer on this run, where one was asked for. A run that recorded nothing cannot be compared."""
    if GATE not in config.stash:
        return None
    made = config.stash.get(SESSION, None)
    if made is None or not made.started:
        return GateResult(ExitCode.NOT_COMPARABLE, (), ("no benchmark recorded anything",))
    return gate_files(made.writer.folder, *config.stash[GATE])


def _print_summary(config: pytest.Config, result: GateResult | None) -> None:
    reporter = config.pluginmanager.getplugin("terminalreporter")
    made = config.stash.get(SESSION, None)
    if reporter is None or (made is None and result is None):
        return
    console = make_console(reporter._tw._file)
    console.print()
    config.hook.pytest_sadtrt_summary(config=config, console=console)
    folder = made.writer.folder if made is not None and made.started else None
    skipped = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ()))
    try:
        print_summary(read_run(folder) if folder is not None else None, skipped, console)
    except UserError as error:
        console.print(f"[bold red]the run cannot be shown:[/] {escape(str(error))}", soft_wrap=True)
    if made is not None and (line := made.prediction_line):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if (problem := config.stash.get(UNFINISHED, None)) is not None:
        console.print(f"[bold red]the run is not complete:[/] {escape(problem)}", soft_wrap=True)
    if result is not None:
        print_gate(result, console)
    if folder is not None:
        report = folder / REPORT_FILE
        shown = os.path.relpath(report if report.exists() else folder)
        console.print(f"results: {shown}", markup=False, soft_wrap=True)


class SummaryHook:
    """A hook for conftest files below: print to the console before the run's own tables, at the very end."""

    @pytest.hookspec
    def pytest_sadtrt_summary(self, config: pytest.Config, console: Console) -> None: ...


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(SummaryHook)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Stable identity only: any difference makes pytest-benchmark warn that two runs do not compare."""
    device = torch.device("cuda" if _on_gpu(config) else "cpu")
    environment = dataclasses.asdict(read_environment(device))
    names = ("gpu", "compute_capability", "driver", "cuda", "tensorrt", "tensorrt_flavour", "torch", "onnxruntime")
    # What is rendered is no machine's, but times of another size, picture or weights do not compare either.
    asked = config.stash[CONFIG]
    # Told before anything is loaded, so the frames of a recording are not counted.
    frames = asked.frames or ("all" if asked.samples else FRAMES)
    rendered = asked.as_text() | {"frames": frames}
    machine_info["sadtrt"] = {name: environment[name] for name in names} | {"rendered": rendered}


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse to compare with a run on another GPU or of another picture: such a ratio says nothing."""
    here, there = machine_info.get("sadtrt", {}), compared_benchmark.get("machine_info", {}).get("sadtrt", {})
    config.stash.setdefault(COMPARED, []).append(compared_benchmark.get("sadtrt", {}))
    if here.get("gpu") != there.get("gpu"):
        raise pytest.UsageError(
            f"the saved benchmark ran on {there.get('gpu') or 'a CPU'}, this run on {here.get('gpu') or 'a CPU'}"
        )
    mine, theirs = here.get("rendered", {}), there.get("rendered", {})
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            raise pytest.UsageError(
                f"the saved benchmark had {name} {theirs.get(name)}, this run {mine.get(name)}: the times of "
                "one say nothing of the other"
            )


#: The digests of the runs that pytest-benchmark compares with.
COMPARED = pytest.StashKey[list[dict[str, str]]]()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Keep what names cannot tell: another file may be called the same."""
    if SESSION in config.stash:
        output_json["sadtrt"] = _digests(config.stash[SESSION])


def _digests(made: Session) -> dict[str, str]:
    return {"weights": made.renderer.weights.digest, "inputs": made.recorded_workload.digest}
