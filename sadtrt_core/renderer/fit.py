"""Fits stand-in weights: a renderer that reconstructs portraits under motion, so that drift says something.

Self-reconstruction of warped portraits (fit_data.py) with L1 and gradient loss, Adam 2e-4, bfloat16 autocast. The
keypoint detector learns where the canonical keypoints of a moved portrait are, the mapping network learns the meaning
of the coefficients (keypoints.py).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.progress import Reporter
from sadtrt_core.renderer.config import COEFFICIENT_WINDOW, RendererConfig, full_config
from sadtrt_core.renderer.fit_data import PairMaker
from sadtrt_core.renderer.keypoints import ANGLES, TRANSLATIONS, bins_to_radians, pose_of
from sadtrt_core.renderer.renderer import NETWORKS, States, build_networks

LEARNING_RATE = 2e-4
GRADIENT_WEIGHT = 1.0
SMALL_LEARNING_RATE = 1e-3  # of the detector and the mapping network
MAPPING_BATCH = 256
HELD_OUT_SEED = 1_000_003
HELD_OUT_BATCHES = 4
WARM_UP_STEPS = 3
SETTLED_SHARE = 0.8
SETTLING_BATCHES = 16


@dataclass(frozen=True)
class FitPlan:
    """How long and on what scale to fit.

    `seconds` bounds the generator's fit; the detector and the mapping network take a tenth of it each. `steps` bounds
    the number of steps as well, for tests. `learning_rate` is the generator's at SadTalker's widths.
    """

    seconds: float
    seed: int
    batch: int = 8
    learning_rate: float = LEARNING_RATE
    steps: int | None = None


@dataclass(frozen=True)
class Fitted:
    """State dicts of the three networks and how well the generator reconstructs held-out pairs, in dB."""

    states: States
    held_out_psnr: float
    steps: int


def fit(
    config: RendererConfig, pictures: Sequence[Tensor], plan: FitPlan, device: torch.device, report: Reporter
) -> Fitted:
    """Fit the three networks on pictures (3, H, W) in 0..1. The same seed draws the same weights and pairs."""
    torch.manual_seed(plan.seed)
    networks = {name: module.to(device) for name, module in build_networks(config).items()}
    generator, detector, mapping = (networks[name] for name in NETWORKS)
    pairs = PairMaker(pictures, config.image_size, plan.seed, device)
    # Narrow networks bear, and in the same time need, longer steps.
    rate = plan.learning_rate * math.sqrt(full_config().generator_width / config.generator_width)
    tenth = replace(plan, seconds=plan.seconds / 10, learning_rate=SMALL_LEARNING_RATE)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        steps = _train(
            "generator",
            generator,
            lambda: _generator_loss(generator, pairs, plan.batch),
            replace(plan, learning_rate=rate),
            report,
        )
        _train("keypoint detector", detector, lambda: _detector_loss(detector, pairs, plan.batch), tenth, report)
        _train("mapping", mapping, lambda: _mapping_loss(mapping, pairs, config.coefficients), tenth, report)
    finally:
        torch.backends.cudnn.benchmark = before
    quality = held_out_psnr(generator, pictures, config.image_size, plan.batch, device)
    states = {
        name: {key: value.detach().cpu().clone() for key, value in module.eval().state_dict().items()}
        for name, module in networks.items()
    }
    return Fitted(states, quality, steps)


def held_out_psnr(
    generator: nn.Module, pictures: Sequence[Tensor], size: int, batch: int, device: torch.device
) -> float:
    """Mean PSNR in dB over pairs that no fit has drawn, in evaluation mode and float32."""
    pairs = PairMaker(pictures, size, HELD_OUT_SEED, device)
    generator.eval()
    found = []
    with torch.no_grad():
        for _ in range(HELD_OUT_BATCHES):
            source, driving, origin, target = pairs.batch(batch)
            error = (generator(source, driving, origin) - target).square().mean(dim=(1, 2, 3))
            found.append(-10 * torch.log10(error))
    return torch.cat(found).mean().item()


def _train(name: str, module: nn.Module, loss_of: Callable[[], Tensor], plan: FitPlan, report: Reporter) -> int:
    """Adam down `loss_of()` for the plan's seconds or steps; the number of steps it took.

    The rate falls as a cosine of the budget. For its last fifth the batch norms stand still at statistics of many
    batches, as they will when rendering. Raises FloatingPointError when the loss is not finite.
    """
    on_gpu = next(module.train().parameters()).device.type == "cuda"
    optimizer = torch.optim.Adam(module.parameters(), lr=plan.learning_rate, fused=on_gpu)
    settled = False
    for step in itertools.count():
        if step <= WARM_UP_STEPS:
            started = time.perf_counter()  # The first steps choose convolution algorithms, which takes its own time.
        spent = time.perf_counter() - started if step >= WARM_UP_STEPS else 0.0
        share = max(spent / plan.seconds, step / plan.steps if plan.steps else 0.0)
        if share >= 1:
            break
        if share >= SETTLED_SHARE and not settled:
            _settle_batch_norms(module, loss_of)
            settled = True
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        # Reading the loss waits for the device, so that the clock above means work that is done.
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the fit of {name} diverged: use another seed or a lower learning rate")
        optimizer.step()
        if step % 20 == 0:
            report.progress(f"{name}: step {step}, loss {value:.4f}", min(spent, plan.seconds), plan.seconds)
    report.progress(f"{name}: fitted", plan.seconds, plan.seconds)
    return step


def _settle_batch_norms(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """Give the batch norms the mean statistics of fresh batches under the present weights, and keep them there."""
    norms = [m for m in module.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # A plain mean over the batches that follow.
    if norms:
        with torch.no_grad():
            for _ in range(SETTLING_BATCHES):
                run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _generator_loss(generator: nn.Module, pairs: PairMaker, batch: int) -> Tensor:
    """L1 of the pictures plus L1 of their horizontal and vertical differences."""
    source, driving, origin, target = pairs.batch(batch)
    with torch.autocast(pairs.device.type, torch.bfloat16):
        prediction = generator(source, driving, origin)
    prediction = prediction.float()
    across, down = (F.l1_loss(prediction.diff(dim=axis), target.diff(dim=axis)) for axis in (3, 2))
    return F.l1_loss(prediction, target) + GRADIENT_WEIGHT * (across + down)


def _detector_loss(detector: nn.Module, pairs: PairMaker, batch: int) -> Tensor:
    # No autocast: in bfloat16 the expectation of the coordinates would be off by a pixel.
    pictures, points = pairs.moved_portraits(batch)
    return F.l1_loss(detector(pictures), points)


def _mapping_loss(mapping: nn.Module, pairs: PairMaker, coefficients: int) -> Tensor:
    windows = random_coefficients(pairs, MAPPING_BATCH, coefficients)
    *angles, translation, expression = pose_of(windows)
    *bins, found_translation, found_expression = mapping(windows)
    total = F.l1_loss(found_translation, translation) + 10 * F.l1_loss(found_expression, expression)
    for logits, angle in zip(bins, angles, strict=True):
        total = total + F.l1_loss(bins_to_radians(logits), angle)
    return total


def random_coefficients(pairs: PairMaker, count: int, coefficients: int) -> Tensor:
    """Windows of random motion (count, coefficients, 27), over the range of the driving sequence and a little more.

    Each channel is an offset and a sine of at most four cycles in 32 frames, so that neighbours in time are no hint at
    the middle frame: the network has to learn which frame counts.
    """
    size = torch.full((coefficients, 1), 0.5, device=pairs.device)
    size[ANGLES], size[TRANSLATIONS] = 0.3, 0.1

    def draw(low: float, high: float) -> Tensor:
        return pairs.uniform(low, high, count, coefficients, 1)

    frame = torch.arange(COEFFICIENT_WINDOW, device=pairs.device) - COEFFICIENT_WINDOW // 2
    wave = torch.sin(2 * math.pi * (draw(0, 4) * frame / 32 + draw(0, 1)))
    return size * (draw(-1, 1) + 1.5 * draw(0, 1) * wave)
