"""The command line: one table of the commands, which are functions of sadtrt_core/commands/."""

from __future__ import annotations

import typer

from sadtrt_core.commands.accuracy import drift, search
from sadtrt_core.commands.options import one_sentence
from sadtrt_core.commands.prepare import build, build_plugin, doctor, export, fit
from sadtrt_core.commands.results import compare, docs, fleet, gate, history, report

app = typer.Typer(
    help="What a lower precision costs and buys for the SadTalker face renderer on NVIDIA GPUs. "
    "The benchmark suite itself is `pytest bench/ --benchmark-only`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (doctor, build, build_plugin, fit, export, drift, search, report, history, gate, compare, fleet, docs):
    app.command(name=command.__name__.replace("_", "-"))(one_sentence()(command))

if __name__ == "__main__":
    app()
