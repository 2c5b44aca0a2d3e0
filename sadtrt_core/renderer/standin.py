"""Stand-in weights: kept as safetensors, found again, and chosen when there is no checkpoint.

The full-size weights are kept as float32. The demo's are kept as float16 to be small enough for the repository, divided
by an irrational scale: weights that were float16 numbers themselves would suffer no rounding in a float16 engine, and
its drift would look better than that of any trained renderer.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sadtrt_core.codec import from_json
from sadtrt_core.errors import UserError
from sadtrt_core.files import keep_file
from sadtrt_core.progress import SILENT, Reporter
from sadtrt_core.renderer.checkpoint import checked_state, expected_states, load_checkpoint
from sadtrt_core.renderer.config import IMAGE_SIZES, RendererConfig, demo_config, full_config
from sadtrt_core.renderer.fit import FitPlan, Fitted, fit, held_out_psnr
from sadtrt_core.renderer.picture import picture_files
from sadtrt_core.renderer.renderer import (
    NETWORKS,
    Renderer,
    States,
    WeightsKind,
    assemble,
    seeded_renderer,
)
from sadtrt_core.renderer.tensor_files import read_safetensors, safetensors_header
from sadtrt_core.renderer.workload import training_pictures

DEMO_FILE = Path(__file__).with_name("demo.safetensors")
FORMAT = "sadtrt stand-in weights 1"
HALF_SCALE = math.sqrt(2)
STANDIN_SUFFIX = ".safetensors"
WEIGHTS_HELP = (
    "auto (fitted on a GPU where they are cached, else demo), demo, fitted, fit (the same, made now "
    "where the cache has none: three minutes on a GPU), fitted-seedN (what `sadtrt fit --seed N` "
    "keeps in the cache), seeded (noise), or a .safetensors file of `sadtrt fit --out`"
)
_FITTED = re.compile(r"fitted(?:-seed(\d{1,18}))?")


def save_standin(path: Path, config: RendererConfig, fitted: Fitted, about: dict[str, str], *, half: bool) -> None:
    """Write state dicts with what they are in the header, as scaled float16 or as float32; atomically.

    Raises UserError where a value does not fit float16, or the file cannot be written.
    """
    tensors = {
        f"{network}.{name}": _stored(f"{network}.{name}", value, half)
        for network, state in fitted.states.items()
        for name, value in state.items()
    }
    header = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(config), sort_keys=True),
        "held_out_psnr": f"{fitted.held_out_psnr:.2f}",
        "steps": str(fitted.steps),
        **about,
    }
    keep_file(path, save(tensors, header))


def _stored(name: str, value: Tensor, half: bool) -> Tensor:
    # The blur kernel is no weight: it is the same in every renderer, to the last bit.
    if not half or not value.is_floating_point() or name == "kp_extractor.down.weight":
        return value.contiguous()
    small = (value / HALF_SCALE).half().contiguous()
    if not bool(small.isfinite().all()):
        raise UserError(f"{name} has values beyond float16: fit again with another seed")
    return small


def load_standin(path: Path, kind: WeightsKind, image_size: int) -> Renderer:
    """A renderer from a file of `save_standin`, for pictures of `image_size` pixels.

    The networks are convolutional: weights fitted at one size render at the other. Raises UserError.
    """
    header, tensors = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} holds no weights of `sadtrt fit`: make some, or give SadTalker's own file as --checkpoint"
        )
    states: States = {name: {} for name in NETWORKS}
    for key, value in tensors.items():
        network, _, name = key.partition(".")
        if network not in states:
            raise UserError(f"{path} has the entry {key}, which is no network's: make it again with `sadtrt fit`")
        states[network][name] = value.float() * HALF_SCALE if value.dtype == torch.float16 else value
    try:
        config = dataclasses.replace(from_json(RendererConfig, json.loads(header["config"])), image_size=image_size)
        expected = expected_states(config)
    except Exception as error:  # Widths of any size and sign, of which PyTorch thinks in several kinds of error.
        raise UserError(f"{path} cannot be read ({error}): make it again with `sadtrt fit`") from error
    states = {name: checked_state(path, name, states[name], expected[name]) for name in NETWORKS}
    return assemble(config, states, kind, path.stem)


def fit_standin(
    size: int,
    *,
    demo: bool,
    plan: FitPlan,
    portraits: Sequence[Path],
    out: Path,
    device: torch.device,
    report: Reporter = SILENT,
) -> Fitted:
    """Fit the demo or the full-size renderer and keep it at `out`.

    Raises ValueError for a bad size, UserError for a bad picture, a name that `--weights` would not take for a file,
    and one that something else has.
    """
    if out.suffix != STANDIN_SUFFIX:
        raise UserError(f"--out {out} is no name for weights: expected one that ends in {STANDIN_SUFFIX}")
    if os.path.lexists(out) and safetensors_header(out).get("format") != FORMAT:
        raise UserError(f"{out} is there already and holds no weights of `sadtrt fit`: choose another name")
    portraits = picture_files(portraits)
    config = demo_config(size) if demo else full_config(size)
    pictures = training_pictures(portraits)
    fitted = fit(config, pictures, plan, device, report)
    names = ", ".join(path.name for path in portraits) or "scikit-image's astronaut and chelsea"
    about = {"seed": str(plan.seed), "seconds": str(plan.seconds), "pictures": names}
    save_standin(out, config, fitted, about, half=demo)
    if demo:
        # What counts is the picture under the rounded weights, so that is the figure in the file.
        generator = load_standin(out, "demo", size).generator.to(device)
        quality = held_out_psnr(generator, pictures, config.image_size, plan.batch, device)
        fitted = dataclasses.replace(fitted, held_out_psnr=quality)
        save_standin(out, config, fitted, about, half=demo)
    return fitted


def fitted_file(cache: Path, size: int, seed: int = 0, kind: WeightsKind = "fitted") -> Path:
    """Where `sadtrt fit` keeps full-size weights, and those of the demo's size."""
    return cache / "weights" / f"{kind}-{size}-seed{seed}{STANDIN_SUFFIX}"


def choose_weights(
    size: int,
    checkpoint: Path | None,
    mapping_checkpoint: Path | None,
    choice: str,
    *,
    has_gpu: bool,
    cache: Path,
    report: Reporter = SILENT,
) -> Renderer:
    """The renderer that was asked for, or the best there is.

    A checkpoint wins. `auto` is the full-size weights of `sadtrt fit` on a GPU, where they are cached, else the demo;
    the other choices are in WEIGHTS_HELP (seeded is full size on a GPU). `report` is told what was fallen back to
    and how to get better. Raises UserError.
    """
    if checkpoint is not None:
        return load_checkpoint(checkpoint, size, mapping_checkpoint)
    if choice.endswith(STANDIN_SUFFIX):
        path = Path(choice)
        return load_standin(path, "demo" if path.resolve() == DEMO_FILE.resolve() else "fitted", size)
    if choice == "seeded":
        return seeded_renderer(full_config(size) if has_gpu else demo_config(size))
    if choice == "fit":
        _fit_once(size, has_gpu, cache, report)
        choice = "fitted"
    named = _FITTED.fullmatch("fitted" if choice == "auto" and has_gpu else choice)
    if named is not None:
        seed = int(named[1] or 0)
        wanted = fitted_file(cache, size, seed)
        others = (fitted_file(cache, other, seed) for other in IMAGE_SIZES)
        found = next((path for path in (wanted, *others) if path.exists()), None)
        if found is not None:
            if found != wanted:
                report.log(f"rendering {size} pixels with {found.stem}: these networks take any size")
            return load_standin(found, "fitted", size)
        if choice != "auto":
            command = f"sadtrt fit --size {size}" + (f" --seed {seed}" if seed else "")
            raise UserError(f"there are no fitted weights at {wanted}: run `{command}` on a GPU")
    if choice not in ("auto", "demo"):
        raise UserError(f"weights {choice!r} are not known: expected {WEIGHTS_HELP}")
    if has_gpu:
        report.log(
            f"rendering with the small demo weights: `sadtrt fit --size {size}` makes full-size ones in three minutes, "
            "and `make bench ARGS=--weights=fit` does so first"
        )
    if DEMO_FILE.exists():
        return load_standin(DEMO_FILE, "demo", size)
    report.log(
        "the demo weights are missing: rendering with seeded noise, whose drift says nothing about a trained renderer"
    )
    return seeded_renderer(demo_config(size))


def _fit_once(size: int, has_gpu: bool, cache: Path, report: Reporter) -> None:
    """Fit full-size weights into the cache, unless some of the default seed are there. Raises UserError on a CPU."""
    if any(fitted_file(cache, other).exists() for other in IMAGE_SIZES):
        return
    if not has_gpu:
        raise UserError("--weights fit would take hours on a CPU: leave it out, and the demo weights are used")
    report.log("fitting full-size stand-in weights first: three minutes")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fit_standin(
        size, demo=False, plan=FitPlan(), portraits=[], out=fitted_file(cache, size), device=device, report=report
    )
