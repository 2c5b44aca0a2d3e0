"""Records, runs and hypothesis strategies that the tests of this folder share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from sadtrt_core.case import Case
from sadtrt_core.records.measurements import Drift, Latency, Resources, Sustained, Telemetry
from sadtrt_core.records.schema import SCHEMA_VERSION, Environment, Record, Run, Weights, Workload

ENVIRONMENT = Environment(
    gpu="NVIDIA H200",
    compute_capability="9.0",
    driver="575.57",
    cuda="12.8",
    tensorrt="8.6.0",
    tensorrt_flavour="tensorrt",
    torch="2.13.0",
    onnxruntime="1.32.0",
    python="3.11.9",
    cpu="Xeon",
    cpu_count=16,
    platform="Linux",
    sadtrt_version="0.1.0",
    commit="abcdef1234567",
    dirty=False,
)
WEIGHTS = Weights("fitted", "stand-in 256", "d1")
WORKLOAD = Workload("astronaut", 2, 256, "d2")


def key(stage: str = "generator", precision: str = "fp16", runner: str = "tensorrt", batch: int = 1) -> Case:
    return Case(stage, runner, precision, "native", batch)


def samples(median_ms: float, seed: int, count: int = 60, spread: float = 0.004) -> tuple[float, ...]:
    """Independent log-normal times around a median."""
    random = np.random.default_rng(seed)
    return tuple(float(value) for value in median_ms * np.exp(random.normal(0, spread, count)))


def latency(device_ms: float | None = 5.0, host_ms: float = 5.5, seed: int = 0, **changes: object) -> Latency:
    made = Latency(
        device_ms=None if device_ms is None else samples(device_ms, seed),
        host_ms=samples(host_ms, seed + 1000, spread=0.01),
        warmup_calls=10,
        steady=True,
    )
    return dataclasses.replace(made, **changes)


def drift(psnr: Sequence[float | None] = (70.0, 72.0), lsb: Sequence[int] = (2, 1), **changes: object) -> Drift:
    made = Drift(tuple(psnr), (0.999,) * len(psnr), tuple(lsb), (False,) * len(psnr), reference="pytorch fp32")
    return dataclasses.replace(made, **changes)


def measured(where: Case | None = None, **changes: object) -> Record:
    parts: dict[str, object] = {"latency": latency(), "drift": drift(), "resources": Resources(900.0, 220.0, 800.0)}
    return Record(where or key(), "measured", **{**parts, **changes})


def run_of(*records: Record, **changes: object) -> Run:
    made = Run(
        SCHEMA_VERSION,
        "2025-01-31T12:00:00Z",
        "2025-01-31T12:05:00Z",
        True,
        ENVIRONMENT,
        WEIGHTS,
        WORKLOAD,
        {"grid_sample": "native"},
        tuple(records),
    )
    return dataclasses.replace(made, **changes)


def on_cpu(run: Run) -> Run:
    """The same run on a machine without a GPU."""
    bare = dict.fromkeys(("gpu", "compute_capability", "driver", "cuda", "tensorrt", "tensorrt_flavour"))
    return dataclasses.replace(run, environment=dataclasses.replace(run.environment, **bare))


words = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs")), max_size=20)
times = st.floats(0, 1e6, allow_nan=False)
positive = st.floats(0, 1e9, allow_nan=False)
keys = st.builds(
    Case,
    st.sampled_from(["generator", "decode"]) | words,
    words,
    words,
    st.sampled_from(["torch", "native", "plugin", "builtin", "none"]),
    st.integers(1, 64),
)


@st.composite
def latencies(draw: st.DrawFn) -> Latency:
    host, device = (draw(st.lists(times, min_size=1, max_size=6)) for _ in range(2))
    has_device = draw(st.booleans())
    shortest = min(len(host), len(device)) if has_device else len(host)
    begins = draw(st.none() | st.sets(st.integers(0, shortest - 1)))
    late = draw(st.sets(st.integers(0, len(device) - 1), max_size=2)) if has_device else ()
    return Latency(
        tuple(device) if has_device else None,
        tuple(host),
        draw(st.integers(0, 1000)),
        draw(st.booleans()),
        tuple(draw(st.sets(st.integers(0, len(host) - 1), max_size=2))),
        () if begins is None else tuple(sorted({0, *begins})),
        tuple(late),
    )


@st.composite
def drifts(draw: st.DrawFn) -> Drift:
    frames = draw(st.integers(1, 4))
    broken = draw(st.tuples(*[st.booleans()] * frames))
    decibels = st.none() | st.floats(-50, 300, allow_nan=False) | st.just(float("inf"))
    return Drift(
        tuple(float("nan") if flag else draw(decibels) for flag in broken),
        tuple(float("nan") if flag else draw(st.floats(-1, 1)) for flag in broken),
        draw(st.tuples(*[st.integers(0, 255)] * frames)),
        broken,
        draw(st.lists(st.none() | st.floats(0, 200), max_size=3).map(tuple)),
        draw(st.booleans()),
        draw(texts),
    )


spreads = st.none() | st.lists(st.floats(0, 1e4), min_size=3, max_size=3).map(lambda three: tuple(sorted(three)))
telemetries = st.builds(
    Telemetry,
    *[spreads] * 4,
    throttle_reasons=st.lists(texts, max_size=2).map(tuple),
    memory_used_mb=spreads,
    others_percent=st.none() | st.floats(0, 100),
    waited_percent=st.none() | st.floats(0, 100),
    yardstick_ms=st.none() | positive,
)
resources = st.builds(Resources, *[st.none() | positive] * 5)
stretches = st.builds(
    Sustained,
    st.integers(1, 10**6),
    st.floats(1e-6, 1e6),
    power_w=st.none() | positive,
    power_limit_w=st.none() | positive,
    sm_clock_mhz=spreads,
)
extras = {
    "resources": st.none() | resources,
    "telemetry": st.none() | telemetries,
    "notes": st.lists(texts, max_size=2).map(tuple),
    "benchmark_version": st.integers(1, 9),
    "sustained": st.none() | stretches,
}
records = st.one_of(
    st.builds(Record, keys, st.just("measured"), st.none(), latencies(), st.none() | drifts(), **extras),
    st.builds(Record, keys, st.just("measured"), st.none() | texts, st.none(), drifts(), **extras),
    st.builds(Record, keys, st.just("failed"), words, st.none() | latencies(), st.none() | drifts(), **extras),
    st.builds(Record, keys, st.just("skipped"), words),
)
environments = st.builds(
    Environment,
    gpu=st.none() | texts,
    tensorrt_flavour=st.sampled_from(["tensorrt", "tensorrt_rtx", None]),
    cpu_count=st.integers(1, 512),
    dirty=st.booleans(),
    **dict.fromkeys(("compute_capability", "driver", "cuda", "tensorrt", "torch", "onnxruntime"), st.none() | texts),
    **dict.fromkeys(("python", "cpu", "platform", "sadtrt_version"), texts),
    commit=st.none() | texts,
)
runs = st.builds(
    Run,
    st.just(SCHEMA_VERSION),
    st.just("2025-01-31T12:00:00Z"),
    st.just("2025-01-31T12:05:00Z"),
    st.booleans(),
    environments,
    st.builds(Weights, st.sampled_from(["checkpoint", "fitted", "demo"]), texts, texts),
    st.builds(Workload, texts, st.integers(1, 999), st.integers(1, 4096), texts),
    st.dictionaries(texts, texts, max_size=3),
    st.lists(records, max_size=4, unique_by=lambda record: record.key).map(tuple),
    st.none() | st.integers(0, 10**6),
)
