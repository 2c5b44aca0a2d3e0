"""Commands that find where a picture is lost and what to keep of it: drift, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sadtrt_core.commands.options import console, errors, make_session, takes
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError

Worst = Annotated[int, typer.Option(min=1, help="On how many of the frames, the worst, every part is measured.")]
# fmt: off
_SESSION = ("jobs", "optimization_level", "grid_sample", "device", "size", "weights", "checkpoint", "source_images",
            "calibration_method", "calibration_image")
# fmt: on


@takes(*_SESSION, "results", "cache", precisions="fp16", frames=16)
def drift(
    config: RunConfig,
    engines: Annotated[
        bool,
        typer.Option(
            "--engines",
            help="Measure TensorRT's engines (on a CPU ONNX Runtime) stage by stage, beside what the types alone cost: "
            "which stage loses more than that to tactics and fusions.",
        ),
    ] = False,
    half_sums: Annotated[
        bool,
        typer.Option(
            "--half-sums",
            help="Which convolutions lose the picture to fp16 accumulation, as TensorRT 8.6's kernels on Hopper do it. "
            "Takes minutes on a CPU.",
        ),
    ] = False,
    worst: Worst = 4,
) -> None:
    """Find where a precision loses the picture: which stage, block and nodes, and which values its types cannot hold.

    Roundings are simulated, so that the findings are of the types alone, whichever runner computes. --jobs,
    --optimization-level and --grid-sample are for the engines of --engines.
    """
    from sadtrt_core.accuracy.accumulation import sum_losses
    from sadtrt_core.accuracy.engines import engine_losses, prepare_engines
    from sadtrt_core.accuracy.losses import session_losses
    from sadtrt_core.progress import ConsoleReporter

    if engines and half_sums:
        raise UserError("--engines measures kernels and --half-sums simulates them: give one of the two")
    (precision,) = config.precisions
    session = make_session(config, config.cache, config.results)
    if engines:
        prepare_engines(session, precision, errors)
    with ConsoleReporter(errors) as reporter:
        if engines:
            found = engine_losses(session, precision, worst, reporter)
        elif half_sums:
            found = sum_losses(session, session.precision(precision), worst, reporter)
        else:
            found = session_losses(session, session.precision(precision), worst, reporter)
    folder = found.write(config.results)
    for one in found.shown:
        console.print(one)
    console.print(f"results: {folder}", markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.complete else 130)


@takes(*_SESSION, "cache", precisions="fp16", frames=16)
def search(
    config: RunConfig,
    min_psnr: Annotated[float, typer.Option(help="Least PSNR of every frame, in dB.")] = 60.0,
    max_lsb: Annotated[int | None, typer.Option(help="Largest difference of a pixel, in levels of 255.")] = None,
    worst: Worst = 4,
    out: Annotated[Path | None, typer.Option(help="The plan to write (default: plans/<base>-<dB>db.toml).")] = None,
) -> None:
    """Find what has to stay fp32 for an accuracy budget, or what may be in eight bits, and write it as a plan.

    An interrupted search goes on where it was. --precision is what everything else computes in: fp16 or bf16; with int8
    or fp8 the search is for the convolutions of fp16-mixed to quantize. With TensorRT candidate plans are built and
    timed beside fp16-mixed; the fastest that holds the budget is written, and beside it what every engine costs, as
    JSON and as a chart. Without a GPU the share of the arithmetic stands for time.
    """
    from sadtrt_core.accuracy.findings import Budget
    from sadtrt_core.accuracy.search import search_command

    try:
        found = search_command(
            make_session(config, config.cache), Budget(min_psnr, max_lsb), worst, out, console, errors
        )
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(0 if found else 1)
