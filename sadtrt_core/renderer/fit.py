"""Fits stand-in weights: a renderer that reconstructs portraits under motion, so that drift says something.

Self-reconstruction of warped portraits (fit_data.py) with L1 and gradient loss, Adam 2e-4, bfloat16 autocast. The
keypoint detector learns where the canonical keypoints of a moved portrait are, the mapping network learns the meaning
of the coefficients (pose.py).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sadtrt_core.renderer.config import COEFFICIENT_WINDOW, RendererConfig
from sadtrt_core.renderer.fit_data import PairMaker
from sadtrt_core.renderer.keypoints import MappingNetwork, bins_to_radians
from sadtrt_core.renderer.pose import ANGLES, EXPRESSIONS, TRANSLATIONS, pose_of
from sadtrt_core.renderer.renderer import build_networks

LEARNING_RATE = 2e-4
GRADIENT_WEIGHT = 1.0
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class FitPlan:
    """How long and on what scale to fit.

    `seconds` bounds the generator's fit; the detector and the mapping network take a tenth of it each. `steps` bounds
    the number of steps as well, for tests.
    """

    seconds: float
    seed: int
    batch: int = 8
    learning_rate: float = LEARNING_RATE
    steps: int | None = None


@dataclass(frozen=True)
class FitProgress:
    """Where a fit is: the network, steps done, seconds left of its budget, and the loss of the last step."""

    network: str
    step: int
    seconds_left: float
    loss: float


Report = Callable[[FitProgress], None]


@dataclass(frozen=True)
class Fitted:
    """State dicts of the three networks and how well the generator reconstructs held-out pairs, in dB."""

    states: dict[str, dict[str, Tensor]]
    held_out_psnr: float
    steps: int


def fit(
    config: RendererConfig, pictures: Sequence[Tensor], plan: FitPlan, device: torch.device, report: Report
) -> Fitted:
    """Fit the three networks on pictures (3, H, W) in 0..1. The same seed draws the same weights and pairs."""
    torch.manual_seed(plan.seed)
    networks = {name: module.to(device) for name, module in build_networks(config).items()}
    pairs = PairMaker(pictures, config.image_size, plan.seed, device)
    steps = _fit_generator(networks["generator"], pairs, plan, report)
    _fit_detector(networks["kp_extractor"], pairs, plan, report)
    _fit_mapping(networks["mapping"], config, pairs, plan, report)
    held_out = PairMaker(pictures, config.image_size, HELD_OUT_SEED, device)
    quality = reconstruction_psnr(networks["generator"], held_out, plan.batch)
    states = {
        name: {key: value.detach().cpu().clone() for key, value in module.eval().state_dict().items()}
        for name, module in networks.items()
    }
    return Fitted(states, quality, steps)


def reconstruction_psnr(generator: nn.Module, pairs: PairMaker, batch: int, batches: int = 4) -> float:
    """Mean PSNR in dB of fresh pairs, in evaluation mode and float32."""
    generator.eval()
    found = []
    with torch.no_grad():
        for _ in range(batches):
            source, driving, origin, target = pairs.batch(batch)
            error = (generator(source, driving, origin) - target).square().mean(dim=(1, 2, 3))
            found.append(-10 * torch.log10(error))
    return torch.cat(found).mean().item()


class _Training:
    """Adam over one network for so many seconds; iterating gives the steps, `take` their losses."""

    def __init__(
        self, name: str, module: nn.Module, plan: FitPlan, seconds: float, learning_rate: float, report: Report
    ) -> None:
        self.name, self.plan, self.seconds, self.report = name, plan, seconds, report
        self.learning_rate = learning_rate
        on_gpu = next(module.train().parameters()).device.type == "cuda"
        self.optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=on_gpu)
        self.loss = math.nan

    def __iter__(self) -> Iterator[int]:
        started = time.perf_counter()
        for step in itertools.count():
            spent = time.perf_counter() - started
            share = max(spent / self.seconds, step / self.plan.steps if self.plan.steps else 0.0)
            if share >= 1:
                return
            # The rate falls as a cosine of the time, so that the batch norms' statistics settle at the end.
            rate = self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield step
            if step % 20 == 0:
                self.report(FitProgress(self.name, step, max(0.0, self.seconds - spent), self.loss))

    def take(self, loss: Tensor) -> None:
        """One step down this loss. Raises FloatingPointError when it is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Reading the loss waits for the device, so that the clock above means work that is done.
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"the fit of {self.name} diverged: use another seed or a lower learning rate")
        self.optimizer.step()


def _fit_generator(generator: nn.Module, pairs: PairMaker, plan: FitPlan, report: Report) -> int:
    training = _Training("generator", generator, plan, plan.seconds, plan.learning_rate, report)
    steps = 0
    for _ in training:
        source, driving, origin, target = pairs.batch(plan.batch)
        with torch.autocast(pairs.device.type, torch.bfloat16):
            prediction = generator(source, driving, origin)
        training.take(_picture_loss(prediction.float(), target))
        steps += 1
    return steps


def _picture_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 of the pictures plus L1 of their horizontal and vertical differences."""
    gradients = sum(F.l1_loss(prediction.diff(dim=axis), target.diff(dim=axis)) for axis in (2, 3))
    return F.l1_loss(prediction, target) + GRADIENT_WEIGHT * gradients


def _fit_detector(detector: nn.Module, pairs: PairMaker, plan: FitPlan, report: Report) -> None:
    training = _Training("keypoint detector", detector, plan, plan.seconds / 10, 1e-3, report)
    for _ in training:
        pictures, points = pairs.moved_portraits(plan.batch)
        with torch.autocast(pairs.device.type, torch.bfloat16):
            found = detector(pictures)
        training.take(F.l1_loss(found.float(), points))


def _fit_mapping(
    mapping: nn.Module, config: RendererConfig, pairs: PairMaker, plan: FitPlan, report: Report
) -> None:
    assert isinstance(mapping, MappingNetwork)
    training = _Training("mapping", mapping, plan, plan.seconds / 10, 5e-4, report)
    for _ in training:
        coefficients = random_coefficients(pairs, 64, config.coefficients)
        pose = pose_of(coefficients)
        yaw, pitch, roll, translation, expression = mapping(coefficients)
        angles = zip((yaw, pitch, roll), (pose.yaw, pose.pitch, pose.roll), strict=True)
        loss = sum(F.l1_loss(bins_to_radians(bins), angle) for bins, angle in angles)
        loss = loss + F.l1_loss(translation, pose.translation) + 10 * F.l1_loss(expression, pose.expression)
        training.take(loss)


def random_coefficients(pairs: PairMaker, count: int, coefficients: int) -> Tensor:
    """Smooth random motion coefficients (count, coefficients, 27) within the range of the driving sequence."""
    ends = torch.randn((count, coefficients, 2), generator=pairs.random, device=pairs.device)
    ends[:, EXPRESSIONS:] = pairs.uniform(-0.35, 0.35, count, coefficients - EXPRESSIONS, 2)
    ends[:, ANGLES] = pairs.uniform(-0.5, 0.5, count, 3, 2)
    ends[:, TRANSLATIONS] = pairs.uniform(-0.2, 0.2, count, 3, 2)
    share = torch.linspace(0, 1, COEFFICIENT_WINDOW, device=pairs.device)
    middle, slope = ends[:, :, :1], 0.3 * ends[:, :, 1:]
    return middle + slope * (share - 0.5)
