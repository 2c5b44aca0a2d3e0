"""The three networks together, with the weights they carry: those of a state dict, or drawn from entry names."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sadtrt_core.codec import JsonValue
from sadtrt_core.errors import printable
from sadtrt_core.renderer.config import RendererConfig
from sadtrt_core.renderer.generator import Generator
from sadtrt_core.renderer.keypoints import KeypointDetector, MappingNetwork
from sadtrt_core.renderer.layers import fold_spectral_norm

NETWORKS = ("generator", "kp_extractor", "mapping")
POWER_ITERATIONS = 30
States = dict[str, dict[str, Tensor]]
WeightsKind = Literal["checkpoint", "fitted", "demo", "seeded"]


@dataclass(frozen=True)
class Weights(JsonValue):
    """Which weights a renderer carries: a checkpoint's, fitted stand-ins, the demo's, or name-seeded noise.

    `digest` is a SHA-256 over every entry's name, shape, dtype and bytes.
    """

    kind: WeightsKind
    name: str
    digest: str


@dataclass(frozen=True)
class Renderer:
    """Keypoint detector, mapping network and generator in evaluation mode, float32, spectral norm folded.

    `seeded` names the networks that the checkpoint lacks; under seeded weights alone it is empty.
    """

    config: RendererConfig
    generator: Generator
    kp_extractor: KeypointDetector
    mapping: MappingNetwork
    weights: Weights
    seeded: frozenset[str] = frozenset()


def build_networks(config: RendererConfig) -> dict[str, torch.nn.Module]:
    """The three networks by their checkpoint names, with the entries of a SadTalker state dict."""
    return {"generator": Generator(config), "kp_extractor": KeypointDetector(config), "mapping": MappingNetwork(config)}


def state_digest(states: States) -> str:
    """SHA-256 in hexadecimal over the state dicts of all networks, independent of entry order."""
    digest = hashlib.sha256()
    for network in sorted(states):
        for name in sorted(states[network]):
            value = states[network][name].detach().cpu().contiguous()
            digest.update(f"{network}.{name}:{tuple(value.shape)}:{value.dtype}".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def assemble(
    config: RendererConfig, states: States, kind: WeightsKind, name: str, seeded: frozenset[str] = frozenset()
) -> Renderer:
    """A renderer from complete state dicts, loaded strictly; the states are converted to float32.

    Raises RuntimeError from `load_state_dict` where an entry is missing, unexpected or of another shape; the
    checkpoint loader checks all of that first and words it for people.
    """
    modules = Generator(config), KeypointDetector(config), MappingNetwork(config)
    for network, module in zip(NETWORKS, modules, strict=True):
        module.load_state_dict(states[network], strict=True)
        module.eval().requires_grad_(False)
        fold_spectral_norm(module)
    return Renderer(config, *modules, Weights(kind, printable(name), state_digest(states)), seeded)


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values for one entry; the generator is seeded with the CRC-32 of the entry's name."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(normal)
    if name.endswith("running_mean"):
        return 0.1 * normal
    if name.endswith(("weight_u", "weight_v")):
        return normal / np.linalg.norm(normal)
    if len(shape) == 1:
        return 1 + 0.1 * normal if name.endswith("weight") else 0.05 * normal
    return normal * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def seeded_state(built: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the entries of `built`, drawn from their names.

    Counters and the fixed blur kernel stay as built. The spectral vectors start from their own draw and take 30 power
    iterations in double precision, so that the norm is that of a converged checkpoint.
    """
    state = {}
    for name, value in built.items():
        if name.endswith("num_batches_tracked") or name == "down.weight":
            state[name] = value.clone()
        else:
            state[name] = torch.from_numpy(np.asarray(_draw(name, tuple(value.shape)), dtype=np.float32))
    for name in built:
        if name.endswith("weight_orig"):
            prefix = name.removesuffix("weight_orig")
            matrix = state[name].double().flatten(1)
            u = state[f"{prefix}weight_u"].double()
            for _ in range(POWER_ITERATIONS):
                v = F.normalize(matrix.t() @ u, dim=0)
                u = F.normalize(matrix @ v, dim=0)
            state[f"{prefix}weight_u"], state[f"{prefix}weight_v"] = u.float(), v.float()
    return state


def seeded_renderer(config: RendererConfig) -> Renderer:
    """A renderer under name-seeded weights, the last resort: its drift says nothing about a trained renderer."""
    states = {name: seeded_state(module.state_dict()) for name, module in build_networks(config).items()}
    return assemble(config, states, "seeded", "seeded by entry name")
