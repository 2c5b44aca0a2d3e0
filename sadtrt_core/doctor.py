"""What this machine has, and for every runner and precision that would be skipped: why, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.environment import package_version, read_environment
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.runners.registry import RUNNERS
from sadtrt_core.session import Session


@dataclass(frozen=True)
class Finding:
    """One thing that is here or is not."""

    thing: str
    state: str
    present: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a runner serves a precision on this machine; `mend` is a command, where one helps."""

    runner: str
    precision: str
    reason: str | None
    fix: str | None


def check_machine(suite: Session) -> tuple[Finding, ...]:
    """What is installed and usable on this machine."""
    environment = read_environment(suite.device)
    plugin = find_plugin()
    weights = suite.renderer.weights

    def finding(thing: str, state: str | None, absent: str = "not found") -> Finding:
        return Finding(thing, state or absent, state is not None)

    capability = environment.compute_capability
    tensorrt = environment.tensorrt and f"{environment.tensorrt} ({environment.tensorrt_flavour})"
    library = f"{plugin.path} (version {plugin.version})" if isinstance(plugin, PluginLibrary) else None
    return (
        finding("GPU", environment.gpu and f"{environment.gpu}, compute capability {capability}"),
        finding("driver", environment.driver),
        finding("CUDA of PyTorch", environment.cuda),
        finding("PyTorch", environment.torch),
        finding("TensorRT", tensorrt, "not installed: pip install 'sadtrt[gpu]'"),
        finding("pycuda", package_version("pycuda"), "not installed: pip install 'sadtrt[gpu]'"),
        finding("GridSample3D plugin", library, str(plugin)),
        finding("ONNX Runtime", environment.onnxruntime),
        Finding("weights", f"{weights.kind}: {weights.name}", weights.kind != "seeded"),
    )


def verdicts(suite: Session) -> tuple[Verdict, ...]:
    """Every runner with every precision, for the generator."""
    found = []
    for kind in RUNNERS.values():
        for precision in PRECISIONS:
            absence = kind.available(suite.plain_job("generator", precision, 1))
            reason, fix = (absence.reason, absence.fix) if absence is not None else (None, None)
            found.append(Verdict(kind.name, precision, reason, fix))
    return tuple(found)


def print_findings(suite: Session, console: Console) -> None:
    """Both tables: what is here, and what would run."""
    here = Table(title="What is here", title_justify="left", show_header=False)
    for finding in check_machine(suite):
        mark = "[green]yes[/]" if finding.present else "[yellow]no[/]"
        here.add_row(finding.thing, mark, escape(finding.state))
    console.print(here)
    table = Table(title="What would run", title_justify="left")
    for heading in ("runner", "precision", "runs", "why not", "what mends it"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts(suite):
        runs = "[green]yes[/]" if verdict.reason is None else "[yellow]no[/]"
        table.add_row(verdict.runner, verdict.precision, runs, escape(verdict.reason or ""), escape(verdict.fix or ""))
    console.print(table)
