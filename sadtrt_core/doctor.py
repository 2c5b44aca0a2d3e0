"""What this machine has, which runners and precisions can run on it, and else why not and what fixes it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sadtrt_core.engine.plugin import PluginLibrary, find_plugin
from sadtrt_core.environment import package_version, read_environment
from sadtrt_core.errors import Unavailable
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.runners.registry import RUNNERS
from sadtrt_core.session import Session


def check_machine(session: Session) -> dict[str, tuple[str, bool]]:
    """What is installed and usable on this machine: each thing's state in words, and whether it is here."""
    environment = read_environment(session.device)
    plugin = find_plugin()
    weights = session.renderer.weights

    def check(state: str | None, absent: str = "not found") -> tuple[str, bool]:
        return state or absent, state is not None

    capability = environment.compute_capability
    tensorrt = environment.tensorrt and f"{environment.tensorrt} ({environment.tensorrt_flavour})"
    library = f"{plugin.path} (version {plugin.version})" if isinstance(plugin, PluginLibrary) else None
    return {
        "GPU": check(environment.gpu and f"{environment.gpu}, compute capability {capability}"),
        "driver": check(environment.driver),
        "CUDA of PyTorch": check(environment.cuda),
        "PyTorch": check(environment.torch),
        "TensorRT": check(tensorrt, "not installed: pip install 'sadtrt[gpu]'"),
        "pycuda": check(package_version("pycuda"), "not installed: pip install 'sadtrt[gpu]'"),
        "GridSample3D plugin": check(library, str(plugin)),
        "ONNX Runtime": check(environment.onnxruntime),
        "FLIP": check(package_version("flip-evaluator"), "not installed: pip install 'sadtrt[picture]'"),
        "H.264 (PyAV)": check(package_version("av"), "not installed: pip install 'sadtrt[picture]'"),
        "weights": (f"{weights.kind}: {weights.name}", weights.kind != "seeded"),
    }


def print_checks(session: Session, console: Console) -> None:
    """Both tables: what is here, and what can run; precisions of a runner that say the same share a line."""
    here = Table(title="What is here", title_justify="left", show_header=False)
    for thing, (state, present) in check_machine(session).items():
        here.add_row(thing, "[green]yes[/]" if present else "[yellow]no[/]", escape(state))
    console.print(here)
    table = Table(title="What can run", title_justify="left")
    for heading in ("runner", "precisions", "runs", "why not", "what fixes it"):
        table.add_column(heading, overflow="fold")
    for runner in RUNNERS:
        table.add_section()
        alike: dict[Unavailable | None, list[str]] = {}
        for precision in PRECISIONS:
            alike.setdefault(session.unavailable(session.case("generator", runner, precision)), []).append(precision)
        for missing, names in alike.items():
            words = ("[green]yes[/]",) if missing is None else ("[yellow]no[/]", missing.reason, missing.fix or "")
            table.add_row(runner, ", ".join(names), words[0], *map(escape, words[1:]))
    console.print(table)
