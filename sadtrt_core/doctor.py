"""What this machine has, and for every runner and precision that would be skipped: why, and what fixes it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.environment import package_version, read_environment
from sadtrt_core.errors import Unavailable
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.runners.registry import RUNNERS
from sadtrt_core.session import Session


@dataclass(frozen=True)
class Check:
    """One thing that is here or is not."""

    thing: str
    state: str
    present: bool


@dataclass(frozen=True)
class Support:
    """Whether a runner serves a precision on this machine: None, or why not and what fixes it."""

    runner: str
    precision: str
    missing: Unavailable | None


def check_machine(session: Session) -> tuple[Check, ...]:
    """What is installed and usable on this machine."""
    environment = read_environment(session.device)
    plugin = find_plugin()
    weights = session.renderer.weights

    def check(thing: str, state: str | None, absent: str = "not found") -> Check:
        return Check(thing, state or absent, state is not None)

    capability = environment.compute_capability
    tensorrt = environment.tensorrt and f"{environment.tensorrt} ({environment.tensorrt_flavour})"
    library = f"{plugin.path} (version {plugin.version})" if isinstance(plugin, PluginLibrary) else None
    return (
        check("GPU", environment.gpu and f"{environment.gpu}, compute capability {capability}"),
        check("driver", environment.driver),
        check("CUDA of PyTorch", environment.cuda),
        check("PyTorch", environment.torch),
        check("TensorRT", tensorrt, "not installed: pip install 'sadtrt[gpu]'"),
        check("pycuda", package_version("pycuda"), "not installed: pip install 'sadtrt[gpu]'"),
        check("GridSample3D plugin", library, str(plugin)),
        check("ONNX Runtime", environment.onnxruntime),
        Check("weights", f"{weights.kind}: {weights.name}", weights.kind != "seeded"),
    )


def supported(session: Session) -> tuple[Support, ...]:
    """Every runner with every precision, for the generator."""
    return tuple(
        Support(runner, precision, session.unavailable(session.case("generator", runner, precision)))
        for runner in RUNNERS
        for precision in PRECISIONS
    )


def print_checks(session: Session, console: Console) -> None:
    """Both tables: what is here, and what would run."""
    here = Table(title="What is here", title_justify="left", show_header=False)
    for check in check_machine(session):
        mark = "[green]yes[/]" if check.present else "[yellow]no[/]"
        here.add_row(check.thing, mark, escape(check.state))
    console.print(here)
    table = Table(title="What would run", title_justify="left")
    for heading in ("runner", "precision", "runs", "why not", "what fixes it"):
        table.add_column(heading, overflow="fold")
    for one in supported(session):
        missing = one.missing
        words = ("[green]yes[/]",) if missing is None else ("[yellow]no[/]", missing.reason, missing.fix or "")
        table.add_row(one.runner, one.precision, words[0], *map(escape, words[1:]))
    console.print(table)
