"""How much device memory is taken, as the driver sees it."""

from __future__ import annotations

import gc

import torch


def device_memory_used(device: torch.device) -> float | None:
    """MB (1e6 bytes) in use on the whole device, None on a CPU. Cached blocks of PyTorch count: they are taken."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 1e6


def device_memory_free_of_leftovers(device: torch.device) -> float | None:
    """`device_memory_used` after giving back what earlier runners left cached, so that the next one pays for itself.

    Runners that are still loaded keep what they hold; the difference to later is the next one's as long as none of them
    runs in between. Only gaps that PyTorch cannot give back, in its blocks of 2 and 20 MB that others hold a part of,
    may be filled without being counted.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    return device_memory_used(device)
