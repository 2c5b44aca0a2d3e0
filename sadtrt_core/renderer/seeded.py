"""Weights drawn from entry names: the last resort where no fitted weights are at hand, and the tests' fixed point."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from sadtrt_core.renderer.config import RendererConfig
from sadtrt_core.renderer.renderer import Renderer, assemble, build_networks

POWER_ITERATIONS = 30


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values for one entry; the generator is seeded with the CRC-32 of the entry's name."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(normal)
    if name.endswith("running_mean"):
        return 0.1 * normal
    if name.endswith(("weight_u", "weight_v")):
        return _unit(normal)
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
                v = torch.nn.functional.normalize(matrix.t() @ u, dim=0)
                u = torch.nn.functional.normalize(matrix @ v, dim=0)
            state[f"{prefix}weight_u"], state[f"{prefix}weight_v"] = u.float(), v.float()
    return state


def seeded_renderer(config: RendererConfig) -> Renderer:
    """A renderer under name-seeded weights. Its drift says nothing about a trained renderer."""
    states = {name: seeded_state(module.state_dict()) for name, module in build_networks(config).items()}
    return assemble(config, states, "seeded", "seeded by entry name")
