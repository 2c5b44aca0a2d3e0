"""Stand-in weights: kept as float16 safetensors, found again, and chosen when there is no checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sadtrt_core.renderer.config import RendererConfig, demo_config, full_config
from sadtrt_core.renderer.fit import FitPlan, FitProgress, Fitted, fit
from sadtrt_core.renderer.fit_data import training_pictures
from sadtrt_core.renderer.renderer import NETWORKS, Renderer, WeightsKind, assemble
from sadtrt_core.renderer.seeded import seeded_renderer

DEMO_FILE = Path(__file__).with_name("demo.safetensors")
FORMAT = "sadtrt stand-in weights 1"


class StandinError(ValueError):
    """A stand-in file that cannot be used, in one sentence."""


def save_standin(path: Path, config: RendererConfig, fitted: Fitted, about: dict[str, str]) -> None:
    """Write state dicts as float16 safetensors with what they are in the header; atomically."""
    tensors = {
        f"{network}.{name}": value.half() if value.is_floating_point() else value
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata=header)
    temporary.replace(path)


def load_standin(path: Path, kind: WeightsKind, image_size: int) -> Renderer:
    """A renderer from a file of `save_standin`, for pictures of `image_size` pixels.

    The networks are convolutional: weights fitted at one size render at the other. Raises StandinError.
    """
    states: dict[str, dict[str, Tensor]] = {name: {} for name in NETWORKS}
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise StandinError(f"{path} holds no stand-in weights: make it again with `sadtrt fit`")
            for key in file.keys():  # noqa: SIM118, a safetensors file is no mapping
                network, _, name = key.partition(".")
                value = file.get_tensor(key)
                states.setdefault(network, {})[name] = value.float() if value.is_floating_point() else value
    except (SafetensorError, OSError) as error:
        raise StandinError(f"{path} cannot be read ({error}): make it again with `sadtrt fit`") from error
    config = RendererConfig(**{**json.loads(header["config"]), "image_size": image_size})
    try:
        return assemble(config, states, kind, path.stem)
    except (RuntimeError, KeyError) as error:
        raise StandinError(f"{path} does not fit this version's networks: make it again with `sadtrt fit`") from error


def fit_standin(
    size: int,
    *,
    demo: bool,
    plan: FitPlan,
    portraits: Sequence[Path],
    out: Path,
    device: torch.device,
    report: Callable[[FitProgress], None],
) -> Fitted:
    """Fit the demo or the full-size renderer and keep it at `out`. Raises ValueError for a bad size or picture."""
    config = demo_config(size) if demo else full_config(size)
    fitted = fit(config, training_pictures(portraits), plan, device, report)
    names = ", ".join(path.name for path in portraits) or "scikit-image's astronaut and chelsea"
    save_standin(out, config, fitted, {"seed": str(plan.seed), "seconds": str(plan.seconds), "pictures": names})
    return fitted


def fitted_file(cache: Path, size: int, seed: int = 0) -> Path:
    """Where `sadtrt fit` keeps full-size weights."""
    return cache / "weights" / f"fitted-{size}-seed{seed}.safetensors"


def choose_weights(
    size: int,
    checkpoint: Path | None,
    mapping_checkpoint: Path | None,
    choice: str,
    *,
    has_gpu: bool,
    cache: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Renderer:
    """The renderer that was asked for, or the best there is.

    A checkpoint wins. `auto` is the full-size weights of `sadtrt fit` on a GPU, where they are cached, else the demo;
    `fitted`, `demo` and `seeded` are themselves (seeded at full size on a GPU). `say` hears what was fallen back to and how
    to get better. Raises CheckpointError or StandinError (both ValueError).
    """
    if checkpoint is not None:
        from sadtrt_core.renderer.checkpoint import load_checkpoint

        return load_checkpoint(checkpoint, size, mapping_checkpoint)
    fitted = fitted_file(cache, size)
    if choice == "seeded":
        return seeded_renderer(full_config(size) if has_gpu else demo_config(size))
    if choice == "fitted" or (choice == "auto" and has_gpu and fitted.exists()):
        if not fitted.exists():
            raise StandinError(f"there are no fitted weights at {fitted}: run `sadtrt fit --size {size}` on a GPU")
        return load_standin(fitted, "fitted", size)
    if choice not in ("auto", "demo"):
        raise StandinError(f"weights {choice!r} are not known: expected auto, demo, fitted or seeded")
    if has_gpu:
        say(f"rendering with the small demo weights: `sadtrt fit --size {size}` makes full-size ones in two minutes")
    if DEMO_FILE.exists():
        return load_standin(DEMO_FILE, "demo", size)
    say("the demo weights are missing: rendering with seeded noise, whose drift says nothing about a trained renderer")
    return seeded_renderer(demo_config(size))


