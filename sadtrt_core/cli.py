"""The command line: doctor, build, build-plugin, fit, drift, search, report, gate, compare."""

from __future__ import annotations

import typer

from sadtrt_core.commands.accuracy import drift, search
from sadtrt_core.commands.prepare import build, build_plugin_command, doctor, fit
from sadtrt_core.commands.results import compare, gate, report

app = typer.Typer(
    help="What a lower precision costs and buys for the SadTalker face renderer on NVIDIA GPUs. "
    "The benchmark suite itself is `pytest bench/ --benchmark-only`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(doctor)
app.command()(build)
app.command(name="build-plugin")(build_plugin_command)
for command in (fit, drift, search, report, gate, compare):
    app.command()(command)

if __name__ == "__main__":
    app()
