"""Options of the suite, the fixtures that bench/ composes, and what pytest-benchmark is told about this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.markup import escape

from sadtrt_core.config import RunConfig, default_cache
from sadtrt_core.errors import UserError
from sadtrt_core.plan import precision_named
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.progress import ConsoleReporter
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.standin import WEIGHTS_HELP

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sadtrt", "what to render, in which precisions, with which runners")
    group.addoption("--size", type=int, default=256, choices=(256, 512), help="image size in pixels (default: 256)")
    group.addoption(
        "--weights",
        default="auto",
        help=f"weights without a checkpoint: {WEIGHTS_HELP} (default: auto)",
    )
    group.addoption("--checkpoint", type=Path, help="SadTalker's .safetensors, .pth or .pth.tar")
    group.addoption("--mapping-checkpoint", type=Path, help="the mapping network's own .pth.tar")
    group.addoption("--source-image", type=Path, help="a picture to animate instead of the built-in portrait")
    group.addoption("--samples", type=Path, help="folder of source_image.pt, kp_driving.pt, kp_source.pt")
    group.addoption("--frames", type=int, default=32, help="frames of the driving sequence (default: 32)")
    group.addoption("--clip-frames", type=int, help="frames of the clip stage (default: 16 on a GPU, 2 on a CPU)")
    group.addoption("--stage", action="append", help=f"only these stages: {', '.join(STAGES)}")
    group.addoption(
        "--runner", action="append", help="only these runners (torch-compile on a CPU only runs when named)"
    )
    group.addoption(
        "--precision", action="append", help=f"only these precisions: {', '.join(PRECISIONS)}, or a plan's .toml file"
    )
    group.addoption("--batch", action="append", type=int, help="batch sizes (default: 1)")
    group.addoption("--device", default="auto", choices=("auto", "cuda", "cpu"), help="where runners compute")
    group.addoption(
        "--grid-sample",
        default="auto",
        choices=("auto", "plugin", "native", "builtin"),
        help="how exported graphs sample a volume (default: the plugin where it is built, else native)",
    )
    group.addoption(
        "--cache",
        type=Path,
        default=None,
        help="folder of graphs, engines, weights, timing cache (default: $SADTRT_CACHE or ~/.cache/sadtrt)",
    )
    group.addoption("--results", type=Path, default=ROOT / "results", help="folder for results (default: results/)")
    group.addoption(
        "--optimization-level",
        type=int,
        default=3,
        choices=range(6),
        help="TensorRT's builder level, 0 (quick) to 5 (thorough; default: 3)",
    )
    group.addoption("--gate", help="judge the run by this baseline, a name in results/baselines or a path")
    group.addoption(
        "--gate-thresholds",
        type=Path,
        default=ROOT / "pyproject.toml",
        help="TOML of the gate (default: pyproject.toml)",
    )
    group.addoption("--flush-l2", action="store_true", help="empty the GPU's L2 cache before every sample")
    group.addoption("--jobs", type=int, default=os.cpu_count() or 1, help="engines built at the same time")


def _named(config: pytest.Config, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The values of a repeatable option, checked; all known ones when it was not given."""
    wanted = tuple(config.getoption(option) or known)
    for name in wanted:
        if name not in known:
            raise pytest.UsageError(f"--{option} {name!r} is not known: expected one of {', '.join(known)}")
    return wanted


def _precisions(config: pytest.Config) -> tuple[str, ...]:
    """The precisions that were asked for, plans' files among them; records know a plan by its name alone."""
    wanted = tuple(dict.fromkeys(config.getoption("precision") or PRECISIONS))
    given: dict[str, str] = {}
    for name in wanted:
        try:
            known_as = precision_named(name).name
        except ValueError as error:
            raise pytest.UsageError(f"--precision: {error}") from error
        if known_as in given:
            raise pytest.UsageError(
                f"--precision: {given[known_as]} and {name} are both called {known_as!r}: rename one"
            )
        given[known_as] = name
    return wanted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Spread a benchmark over the stages, runners, precisions and batches that were asked for."""
    if "session" not in metafunc.fixturenames:
        return
    from sadtrt_core.runners.registry import RUNNERS

    config = metafunc.config
    values: dict[str, tuple[Any, ...]] = {
        "stage": _named(config, "stage", tuple(STAGES)),
        "runner": _named(config, "runner", tuple(RUNNERS)),
        "precision": _precisions(config),
        "batch": tuple(config.getoption("batch") or (1,)),
    }
    # The stage outermost, so that what is compared is measured one after the other.
    for name in ("stage", "runner", "precision", "batch"):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values[name])


def pytest_configure(config: pytest.Config) -> None:
    """Refuse mistyped names before anything is collected."""
    if config.getoption("stage"):
        _named(config, "stage", tuple(STAGES))
    if config.getoption("precision"):
        _precisions(config)
    if config.getoption("runner"):
        from sadtrt_core.runners.registry import RUNNERS

        _named(config, "runner", tuple(RUNNERS))
    if min(config.getoption("batch") or (1,)) < 1:
        raise pytest.UsageError("--batch must be 1 or more")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Load what the benchmarks render once, so that a wrong file or option is one sentence instead of one a row."""
    wanted = any("session" in getattr(item, "fixturenames", ()) for item in session.items)
    if not wanted or session.config.getoption("collectonly"):
        return
    try:
        made = _make_suite(session.config)
        made.check()
    except ValueError as error:
        pytest.exit(f"sadtrt: {error}", returncode=int(pytest.ExitCode.USAGE_ERROR))
    session.config.stash[SESSION] = made


def _make_suite(config: pytest.Config) -> Any:
    from sadtrt_core.session import Session

    option = config.getoption
    return Session(
        RunConfig(
            size=option("size"),
            weights=option("weights"),
            checkpoint=option("checkpoint"),
            mapping_checkpoint=option("mapping_checkpoint"),
            source_image=option("source_image"),
            samples=option("samples"),
            frames=option("frames"),
            clip_frames=option("clip_frames"),
            device=option("device"),
            grid_sample=option("grid_sample"),
            cache=option("cache") or default_cache(),
            results=option("results"),
            jobs=option("jobs"),
            optimization_level=option("optimization_level"),
            flush_l2=option("flush_l2"),
            precisions=tuple(option("precision") or ()),
        ),
        report=ConsoleReporter(Console(stderr=True)),
    )


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Any:
    """The run that every benchmark records into. Engines of the collected cases are built before the first of them."""
    made = request.config.stash[SESSION]
    _prebuild(made, request)
    return made


def _prebuild(made: Any, request: pytest.FixtureRequest) -> None:
    from sadtrt_core.benchmark import prebuild

    if not made.on_gpu:
        return
    given = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cases = [
        made.case(params.get("stage", "generator"), params["runner"], params["precision"], params.get("batch", 1))
        for params in given
        if "runner" in params and "precision" in params
    ]
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        prebuild(made, cases, Console())


SESSION = pytest.StashKey[Any]()
GATE = pytest.StashKey[Any]()
UNFINISHED = pytest.StashKey[str]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say now, before minutes of measuring, that a run could not be gated."""
    name = session.config.getoption("gate")
    if name is None:
        return
    from sadtrt_core.gate.baselines import find_baseline
    from sadtrt_core.gate.limits import Thresholds
    from sadtrt_core.gate.verdicts import ExitCode
    from sadtrt_core.records.store import read_run

    try:
        # Resolved now: by the end, `latest` would be the run itself.
        baseline = find_baseline(ROOT / "results", name).resolve()
        read_run(baseline)
        session.config.stash[GATE] = baseline, Thresholds.read(session.config.getoption("gate_thresholds"))
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
    # An interrupted run stays marked incomplete: what it measured is readable, but no gate may pass on it.
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if made is None or not made.started or not ended or session.shouldfail or session.shouldstop:
        return
    try:
        made.finish()
    except UserError as error:
        session.config.stash[UNFINISHED] = str(error)
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED


def _judge(config: pytest.Config) -> Any:
    """The gate's answer on this run, where one was asked for. A run that recorded nothing cannot be compared."""
    if GATE not in config.stash:
        return None
    from sadtrt_core.gate.judge import gate_files
    from sadtrt_core.gate.verdicts import ExitCode, GateResult

    made = config.stash.get(SESSION, None)
    if made is None or not made.started:
        return GateResult(int(ExitCode.NOT_COMPARABLE), (), ("no benchmark recorded anything",))
    return gate_files(made.writer.folder, *config.stash[GATE])


def _print_summary(config: pytest.Config, result: Any) -> None:
    reporter = config.pluginmanager.getplugin("terminalreporter")
    made = config.stash.get(SESSION, None)
    if reporter is None or (made is None and result is None):
        return
    from sadtrt_core.gate.output import print_gate
    from sadtrt_core.records.store import read_run
    from sadtrt_core.report.html import REPORT_FILE, print_summary

    # Where there is no terminal to ask, wide enough that no word of a table breaks.
    file = reporter._tw._file
    console = Console(file=file, width=None if file.isatty() else 160)
    console.print()
    config.hook.pytest_sadtrt_summary(config=config, console=console)
    folder = made.writer.folder if made is not None and made.started else None
    if folder is not None:
        print_summary(read_run(folder), console)
    if (problem := config.stash.get(UNFINISHED, None)) is not None:
        console.print(f"[bold red]the run is not complete:[/] {escape(problem)}", soft_wrap=True)
    if result is not None:
        print_gate(result, console)
    if folder is not None:
        report = folder / REPORT_FILE
        console.print(f"results: {os.path.relpath(report if report.exists() else folder)}", soft_wrap=True)


class SummaryHook:
    """A hook for conftest files below: print to the console before the run's own tables, at the very end."""

    @pytest.hookspec
    def pytest_sadtrt_summary(self, config: pytest.Config, console: Console) -> None: ...


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(SummaryHook)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Stable identity only: any difference makes pytest-benchmark warn that two runs do not compare."""
    import dataclasses

    import torch

    from sadtrt_core.environment import read_environment

    device = torch.device("cuda" if torch.cuda.is_available() and config.getoption("device") != "cpu" else "cpu")
    environment = dataclasses.asdict(read_environment(device))
    names = ("gpu", "compute_capability", "driver", "cuda", "tensorrt", "tensorrt_flavour", "torch", "onnxruntime")
    machine_info["sadtrt"] = {name: environment[name] for name in names}


def pytest_benchmark_compare_machine_info(
    config: pytest.Config, benchmarksession: Any, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse to compare with a run of another GPU: such a ratio says nothing."""
    here = machine_info.get("sadtrt", {}).get("gpu")
    there = compared_benchmark.get("machine_info", {}).get("sadtrt", {}).get("gpu")
    if here != there:
        raise pytest.UsageError(f"the saved benchmark ran on {there or 'a CPU'}, this run on {here or 'a CPU'}")
