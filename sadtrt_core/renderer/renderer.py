"""The three networks together, with the weights they carry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sadtrt_core.renderer.config import RendererConfig
from sadtrt_core.renderer.generator import Generator
from sadtrt_core.renderer.keypoints import KeypointDetector, MappingNetwork
from sadtrt_core.renderer.layers import fold_spectral_norm

NETWORKS = ("generator", "kp_extractor", "mapping")
WeightsKind = Literal["checkpoint", "fitted", "demo", "seeded"]


@dataclass(frozen=True)
class WeightsIdentity:
    """Which weights a renderer carries. `digest` is a SHA-256 over every entry's name, shape, dtype and bytes."""

    kind: WeightsKind
    name: str
    digest: str


@dataclass(frozen=True)
class Renderer:
    """Keypoint detector, mapping network and generator in evaluation mode, float32, spectral norm folded."""

    config: RendererConfig
    generator: Generator
    kp_extractor: KeypointDetector
    mapping: MappingNetwork
    weights: WeightsIdentity


def build_networks(config: RendererConfig) -> dict[str, torch.nn.Module]:
    """The three networks by their checkpoint names, with the entries of a SadTalker state dict."""
    return {"generator": Generator(config), "kp_extractor": KeypointDetector(config), "mapping": MappingNetwork(config)}


def state_digest(states: dict[str, dict[str, Tensor]]) -> str:
    """SHA-256 in hexadecimal over the state dicts of all networks, independent of entry order."""
    digest = hashlib.sha256()
    for network in sorted(states):
        for name in sorted(states[network]):
            value = states[network][name].detach().cpu().contiguous()
            digest.update(f"{network}.{name}:{tuple(value.shape)}:{value.dtype}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def assemble(config: RendererConfig, states: dict[str, dict[str, Tensor]], kind: WeightsKind, name: str) -> Renderer:
    """A renderer from complete state dicts, loaded strictly; the states are converted to float32.

    Raises RuntimeError from `load_state_dict` where an entry is missing, unexpected or of another shape; the
    checkpoint loader checks all of that first and words it for people.
    """
    networks = build_networks(config)
    for network, module in networks.items():
        module.load_state_dict(states[network], strict=True)
        module.eval().requires_grad_(False)
        fold_spectral_norm(module)
    generator, detector, mapping = (networks[n] for n in NETWORKS)
    assert isinstance(generator, Generator)
    assert isinstance(detector, KeypointDetector)
    assert isinstance(mapping, MappingNetwork)
    return Renderer(config, generator, detector, mapping, WeightsIdentity(kind, name, state_digest(states)))
