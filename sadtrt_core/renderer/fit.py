"""Fits stand-in weights: a renderer that reconstructs portraits under motion, so that drift says something.

Self-reconstruction of warped portraits, with L1 and gradient loss, Adam 2e-4, on a GPU bfloat16 autocast. The keypoint
detector learns where the canonical keypoints of a moved portrait are, the mapping network learns the meaning of the
coefficients (keypoints.py).
"""

from __future__ import annotations

import functools
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
from sadtrt_core.renderer.keypoints import (
    ANGLES,
    TRANSLATIONS,
    bins_to_radians,
    canonical_keypoints,
    pose_of,
    rotation_matrix,
)
from sadtrt_core.renderer.renderer import NETWORKS, States, build_networks

LEARNING_RATE = 2e-4
SMALL_LEARNING_RATE = 1e-3  # of the detector and the mapping network
MAPPING_BATCH = 256
HELD_OUT_SEED = 1_000_003
HELD_OUT_BATCHES = 4
WARM_UP_STEPS = 3
SETTLED_SHARE = 0.8
ASKED_SHARE = 0.05
SETTLING_BATCHES = 16
WARP_WIDTH = 0.22  # Standard deviation of a keypoint's pull on the picture, in units of half the picture.
BACKGROUND_PULL = 0.15  # What holds the picture still where no keypoint is near.


@dataclass(frozen=True)
class FitPlan:
    """How long and on what scale to fit.

    `seconds` bounds the generator's fit; the detector and the mapping network take a tenth of it each. `steps` bounds
    the number of steps as well, for tests. `learning_rate` is the generator's at SadTalker's widths. `until_psnr` ends
    the generator's fit as soon as it reconstructs held-out pairs to so many dB: fits of different pictures are then
    equally sharp.
    """

    seconds: float = 120.0
    seed: int = 0
    batch: int = 8
    learning_rate: float = LEARNING_RATE
    steps: int | None = None
    until_psnr: float | None = None


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
    widening = full_config().generator_width / config.generator_width
    scaled = replace(plan, learning_rate=plan.learning_rate * math.sqrt(widening))
    tenth = replace(plan, seconds=plan.seconds / 10, learning_rate=SMALL_LEARNING_RATE)

    def sharp_enough() -> bool:
        found = held_out_psnr(generator, pictures, config.image_size, plan.batch, device)
        report.log(f"generator: {found:.1f} dB on held-out pairs, {plan.until_psnr:g} are wanted")
        return plan.until_psnr is not None and found >= plan.until_psnr

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        enough = None if plan.until_psnr is None else sharp_enough
        loss_of = functools.partial(_generator_loss, generator, pairs, plan.batch)
        steps = _train("generator", generator, loss_of, scaled, report, enough)
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


def _train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[], Tensor],
    plan: FitPlan,
    report: Reporter,
    enough: Callable[[], bool] | None = None,
) -> int:
    """Adam down `loss_of()` for the plan's seconds or steps, or until `enough()`; the number of steps it took.

    The rate falls as a cosine of the budget. For its last fifth the batch norms stand still at statistics of many
    batches, as they will when rendering. `enough` is asked every twentieth of the budget before that; a yes makes the
    budget what has been spent and that fifth. Raises FloatingPointError when the loss is not finite.
    """
    on_gpu = next(module.train().parameters()).device.type == "cuda"
    optimizer = torch.optim.Adam(module.parameters(), lr=plan.learning_rate, fused=on_gpu)
    settled, asked, hurry = False, 0.0, 1.0
    for step in itertools.count():
        if step <= WARM_UP_STEPS:
            started = time.perf_counter()  # The first steps choose convolution algorithms, which takes its own time.
        spent = time.perf_counter() - started if step >= WARM_UP_STEPS else 0.0
        share = hurry * max(spent / plan.seconds, step / plan.steps if plan.steps else 0.0)
        if share >= 1:
            break
        if enough is not None and not settled and share >= asked + ASKED_SHARE:
            asked = share
            if enough():
                hurry *= max(1.0, SETTLED_SHARE / share)
                share = max(share, SETTLED_SHARE)
            module.train()
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
        if step % 10 == 0:
            report.progress(f"{name}: step {step}, loss {value:.4f}", min(spent, plan.seconds), plan.seconds)
    report.progress(f"{name}: fitted", plan.seconds, plan.seconds)
    return step


def _settle_batch_norms(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """Give the batch norms the mean statistics of fresh batches under the present weights, and keep them there."""
    norms = [m for m in module.modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # A plain mean over the batches that follow.
    if norms:
        with torch.no_grad():
            for _ in range(SETTLING_BATCHES):
                run()
    for norm in norms:
        norm.eval()


def _generator_loss(generator: nn.Module, pairs: PairMaker, batch: int) -> Tensor:
    """L1 of the pictures plus L1 of their horizontal and vertical differences."""
    source, driving, origin, target = pairs.batch(batch)
    # Few processors have the arithmetic: on others it takes ten times as long as float32.
    with torch.autocast(pairs.device.type, torch.bfloat16, enabled=pairs.device.type == "cuda"):
        prediction = generator(source, driving, origin)
    prediction = prediction.float()
    across, down = (F.l1_loss(prediction.diff(dim=axis), target.diff(dim=axis)) for axis in (3, 2))
    return F.l1_loss(prediction, target) + (across + down)


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


class PairMaker:
    """Makes batches of (source picture, driving keypoints, source keypoints, target picture) on a device."""

    def __init__(self, pictures: Sequence[Tensor], size: int, seed: int, device: torch.device) -> None:
        # Every picture at twice the size, so that a zoomed crop is still sharp.
        edge = 2 * size
        self.pictures = torch.cat([F.interpolate(p[None], (edge, edge), mode="area") for p in pictures]).to(device)
        self.size = size
        self.device = device
        self.random = torch.Generator(device=device).manual_seed(seed)
        axis = (torch.arange(size, device=device) + 0.5) * (2 / size) - 1
        self.grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
        self.canonical = canonical_keypoints().to(device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform random numbers on the device."""
        return torch.rand(shape, generator=self.random, device=self.device) * (high - low) + low

    def sources(self, count: int) -> Tensor:
        """Random crops, turned, mirrored and recoloured: (count, 3, size, size)."""
        index = torch.randint(len(self.pictures), (count,), generator=self.random, device=self.device)
        zoom, angle = self.uniform(0.6, 1.0, count), self.uniform(-0.25, 0.25, count)
        mirror = torch.where(self.uniform(0, 1, count) < 0.5, -1.0, 1.0)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        room = (1 - zoom)[:, None] * self.uniform(-1, 1, count, 2)
        matrix = torch.stack((cos * mirror, -sin, room[:, 0], sin * mirror, cos, room[:, 1]), 1).reshape(-1, 2, 3)
        grid = F.affine_grid(matrix, [count, 3, self.size, self.size], align_corners=False)
        crops = F.grid_sample(self.pictures[index], grid, padding_mode="reflection", align_corners=False)
        gain, lift = self.uniform(0.7, 1.2, count, 3, 1, 1), self.uniform(-0.1, 0.1, count, 3, 1, 1)
        return (crops * gain + lift).clamp(0, 1)

    def keypoints(self, count: int) -> tuple[Tensor, Tensor]:
        """Driving and source keypoints (count, 15, 3): half face-shaped, half anywhere; moved by a similarity."""
        anywhere = self.uniform(-0.9, 0.9, count, 15, 3)
        face = self.canonical * self.uniform(0.7, 1.2, count, 1, 1) + self.uniform(-0.2, 0.2, count, 1, 3)
        source = torch.where(self.uniform(0, 1, count, 1, 1) < 0.5, face, anywhere)
        limits = math.radians(20), math.radians(12), math.radians(10)
        yaw, pitch, roll = (self.uniform(-limit, limit, count) for limit in limits)
        moved = source @ rotation_matrix(yaw, pitch, roll).transpose(1, 2) * self.uniform(0.9, 1.1, count, 1, 1)
        jitter = 0.03 * torch.randn((count, 15, 3), generator=self.random, device=self.device)
        return moved + self.uniform(-0.12, 0.12, count, 1, 3) + jitter, source

    def warp(self, source: Tensor, kp_driving: Tensor, kp_source: Tensor) -> Tensor:
        """The source picture moved as its keypoints did: Gaussian-weighted mean of their displacements."""
        offset = self.grid[None, None] - kp_driving[:, :, None, None, :2]
        pull = torch.exp(-(offset * offset).sum(-1, keepdim=True) / (2 * WARP_WIDTH**2))
        displacement = (kp_source - kp_driving)[:, :, None, None, :2]
        field = (pull * displacement).sum(1) / (pull.sum(1) + BACKGROUND_PULL)
        return F.grid_sample(source, self.grid + field, padding_mode="border", align_corners=False)

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source, driving keypoints, source keypoints, target."""
        source = self.sources(count)
        driving, origin = self.keypoints(count)
        return source, driving, origin, self.warp(source, driving, origin)

    def moved_portraits(self, count: int) -> tuple[Tensor, Tensor]:
        """The first picture under a random similarity, and where the canonical keypoints then are (z kept)."""
        zoom, angle = self.uniform(0.85, 1.15, count), self.uniform(-0.25, 0.25, count)
        shift = self.uniform(-0.15, 0.15, count, 2)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        turn = torch.stack((cos, -sin, sin, cos), dim=1).reshape(-1, 2, 2)
        points = self.canonical.expand(count, -1, -1).clone()
        points[:, :, :2] = points[:, :, :2] @ turn.transpose(1, 2) + shift[:, None]
        back = torch.linalg.inv(turn)
        matrix = torch.cat((back, -back @ shift[:, :, None]), dim=2)
        grid = F.affine_grid(matrix, [count, 3, self.size, self.size], align_corners=False)
        first = self.pictures[:1].expand(count, -1, -1, -1)
        pictures = F.grid_sample(first, grid, padding_mode="border", align_corners=False)
        return (pictures * self.uniform(0.8, 1.15, count, 3, 1, 1)).clamp(0, 1), points
