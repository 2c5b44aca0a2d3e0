"""Commands that find where a picture is lost and what to keep of it: drift, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sadtrt_core.commands.options import console, errors, make_session, takes
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError

Worst = Annotated[int, typer.Option(min=1, help="How many of the frames, the worst, every part is measured on.")]
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
            help="Measure the stages as they are shipped, by TensorRT's engines (ONNX Runtime on a CPU), beside what "
            "their types alone cost: which stage loses more than that to tactics and fusions.",
        ),
    ] = False,
    half_sums: Annotated[
        bool,
        typer.Option(
            "--half-sums",
            help="Which convolutions lose the picture where kernels sum in half, as TensorRT 8.6's do on Hopper. "
            "Takes minutes on a CPU.",
        ),
    ] = False,
    worst: Worst = 4,
) -> None:
    """Find where a precision loses the picture: which stage, block and nodes, and whose numbers do not fit.

    Its roundings are simulated, so that the findings are the types' alone, whoever computes them. With --engines the
    engines themselves are measured, stage by stage; --jobs, --optimization-level and --grid-sample are theirs. With
    --half-sums what kernels add to the types that sum in half.
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
    min_psnr: Annotated[float, typer.Option(help="What every frame has to hold, in dB.")] = 60.0,
    max_lsb: Annotated[int | None, typer.Option(help="The largest difference of a pixel, of 255.")] = None,
    worst: Worst = 4,
    out: Annotated[Path | None, typer.Option(help="The plan to write (default: plans/<base>-<dB>db.toml).")] = None,
) -> None:
    """Find what has to stay fp32 for an accuracy budget, or what may be in eight bits, and write it as a plan.

    Run again, it goes on. --precision is what everything else computes in: fp16 or bf16; with int8 or fp8 the search is
    for the convolutions to quantize on fp16-mixed. With TensorRT the plans that come into question are built and timed
    beside the built-in fp16-mixed; the fastest that holds the budget is written, and beside it what every engine costs,
    as JSON and as a chart. Without a GPU arithmetic stands for time.
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
