"""Whether what was timed computes its stage: its outputs beside PyTorch's in fp32 on the same inputs.

Drift looks at frames rendered whole, at batch 1. Engines of other stages and batches are others, so their outputs are
looked at where they are timed: not for how much they lose, but for what no precision explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sadtrt_core.precision import PRECISIONS
from sadtrt_core.runners.base import Job
from sadtrt_core.runners.registry import EAGER, runner_named

#: An error so large, as a share of what an output varies by in itself, has nothing left of the output.
FAR = 0.9
#: Another sample's expected output has to be so many times as near as the own one: some samples are alike.
NEARER = 0.7
#: What an output that hardly varies is taken to vary by, as a share of its size.
_LEAST_VARIATION = 0.1


def exact_outputs(job: Job, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What PyTorch in fp32 makes of the inputs of the job's stage, each sample by itself: (N, ...) on the host."""
    is_clip = job.stage.module is None
    # A clip's frames are rendered one by one anyway; a batch in fp32 may not fit beside what is timed.
    alone = replace(job, precision=PRECISIONS["fp32"], calibration=None, batch=job.batch if is_clip else 1)
    items = [{name: t[i : i + alone.batch] for name, t in inputs.items()} for i in range(0, job.batch, alone.batch)]
    with runner_named(EAGER).create(alone) as runner:
        made = [{name: tensor.cpu() for name, tensor in runner.infer(item).items()} for item in items]
    return {spec.name: torch.cat([one[spec.name] for one in made]) for spec in job.outputs}


def output_fault(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> str | None:
    """What is wrong with outputs by name, (N, ...) each, in one sentence; None where nothing is.

    A sample's output is wrong where it is not finite and `exact` is, where its error has the size of the output's own
    variation, and where it is nearer to what another sample of the batch should give than to what it should itself.
    """
    for name, expected in exact.items():
        want, have = expected.flatten(1).float(), found[name].detach().cpu().flatten(1).float()
        if have.shape != want.shape:
            return f"output {name!r} has shape {tuple(found[name].shape)} where {tuple(expected.shape)} is expected"
        for sample, (own, right) in enumerate(zip(have, want, strict=True)):
            if not right.isfinite().all():
                continue
            what = f"output {name!r} of sample {sample} of {len(want)}"
            if not own.isfinite().all():
                return f"{what} holds NaN or infinity"
            away = (want - own).square().mean(dim=1).sqrt()
            error, variation = float(away[sample]), float(right.std(correction=0))
            scale = max(variation, _LEAST_VARIATION * float(right.square().mean().sqrt()))
            if error > FAR * scale:
                return f"{what} is off by {error:.3g} where PyTorch's in fp32 varies by {scale:.3g}"
            nearest = int(torch.where(away.isfinite(), away, torch.inf).argmin())
            if away[nearest] < NEARER * away[sample]:
                return f"{what} is nearer to what sample {nearest} should give than to its own"
    return None
