"""Which rows a run has, and in which order."""

from __future__ import annotations

import pytest

from sadtrt_core.config import RunConfig
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.rows import rows_of, shuffled
from sadtrt_core.runners.registry import RUNNERS


def test_a_gpu_has_sadtalkers_batches_of_the_generator_and_a_cpu_has_not() -> None:
    on_gpu, on_cpu = rows_of(RunConfig(), True), rows_of(RunConfig(), False)
    assert {row[3] for row in on_cpu} == {1}
    batched = [row for row in on_gpu if row[3] > 1]
    assert {(row[0], row[3]) for row in batched} == {("generator", 2), ("generator", 8)}
    assert {row[1:3] for row in batched if row[1] == "pytorch"} == {
        ("pytorch", name) for name in ("fp32", "default", "fp16", "fp16-mixed")
    }
    # A ratio to PyTorch needs PyTorch at the same batch.
    assert {row[1] for row in batched} == {"pytorch", "pytorch-cuda-graph", "torch-compile", "tensorrt"}
    assert [row for row in on_gpu if row[3] == 1] == on_cpu
    assert [row for row in on_gpu if row[0] == "clip"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_runner_that_is_named_has_every_row(runner: str) -> None:
    rows = rows_of(RunConfig(runners=(runner,), precisions=tuple(PRECISIONS), batches=(4,)), False)
    assert len(rows) == len(STAGES) * len(PRECISIONS)


def test_what_takes_minutes_is_measured_only_where_it_is_named() -> None:
    runners = {row[1] for row in rows_of(RunConfig(), True)}
    assert set(RUNNERS) - runners == {"torch-compile-default", "torch-compile-max-autotune"}


def test_the_order_follows_from_the_seed_and_not_from_what_was_left_out() -> None:
    rows = [f"row {number}" for number in range(20)]
    first, second = (shuffled(rows, str, seed) for seed in (1, 2))
    assert sorted(first) == sorted(second) == sorted(rows)
    assert len({tuple(rows), tuple(first), tuple(second)}) == 3
    assert shuffled(rows[5:], str, 1) == [row for row in first if row in rows[5:]]
