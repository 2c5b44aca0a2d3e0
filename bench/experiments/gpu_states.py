"""Why do the times of one engine lie in two states? Looks at a row and at the GPU's clocks, memory and limits together.

    python bench/experiments/gpu_states.py --weights fitted --optimization-level 2 --out gpu-states.json

Samples a row in bursts, with pauses of different lengths between them in which the GPU idles or only spins (one
thread, so that it is busy but cool). A round is five samples as the suite takes them; ten between probes of the true SM
clock (cycles per nanosecond of the GPU's timer: over 50 us before and after, and over the sample itself on every SM);
and then probes that tell which part of the GPU is slower: a copy of 256 MiB, a half-precision matrix product, 200 empty
kernels in one CUDA graph, and chains of loads from the L2 cache and from memory. NVML's clocks, temperatures, power and
performance state are read while those run, its counters of limits around each burst.

The medians of the rounds are parted into a fast and a slow state, and every quantity is asked how well it tells them
apart. What an answer means:
- sm_ghz_during (or before and after) lower in the slow state by as much as the row is slower: the SM clock really
  drops, and NVML's 1980 MHz is a target; matmul_tflops then falls too, and row_million_cycles is the same in both.
  (A GPU that stops the counters of SMs that idle shows a lower clock during a sample than before and after it, in both
  states.)
- sm_ghz the same, copy_gb_per_s or memory_load_ns worse: memory is slower (its clock, refresh when it is hot).
- l2_load_ns worse with the same memory and SM clocks: L2 cache or crossbar.
- empty_kernel_us worse: what lies between the kernels of a CUDA graph; a row of 291 kernels gains 0.15 ms from half a
  microsecond each, which is the 3% that was seen.
- row_ms_by_globaltimer without the states: the clock behind CUDA events, not the work, changes.
- bare_row_ms does not tell: the states are the probes', not the suite's; look at its values alone (--out).
- nothing else tells: placement or order of the work itself; look at a profile of a slow and a fast call next.

Exit status 0 where two states were seen, 1 where not (what was seen is written all the same).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gate_rows import row_absence, row_job
from gpu_probes import Prober, Round
from spin_kernel import SpinKernel
from state_sensors import StateSensors, state_sensors
from state_statistics import (
    States,
    by_pause,
    pause_correlation,
    telling,
    telling_line,
    two_states,
    visits,
)
from suite_options import add_suite_options, make_session

from sadtrt_core import stats
from sadtrt_core.environment import read_environment
from sadtrt_core.files import write_file
from sadtrt_core.measure.timing import GPU_PLAN, LatencySampler
from sadtrt_core.runners.base import StageRunner

PAUSES = (("idle", 0.0), ("idle", 0.2), ("spin", 0.2), ("idle", 1.0), ("spin", 1.0), ("idle", 3.0), ("spin", 3.0))
BURST_S = 1.5
FIRST_S = 0.5
NVML_EVERY_S = 0.2
"""NVML takes milliseconds to answer, in which the GPU may fall idle."""
SPIN_NS = 50_000_000

Burst = dict[str, Any]


def pauses(seed: int = 0) -> Iterator[tuple[str, float]]:
    """Kind and seconds of pause after pause without end, each as often as the others and in changing order."""
    order = random.Random(seed)
    while True:
        yield from order.sample(PAUSES, len(PAUSES))


def pause(kind: str, seconds: float, spin: SpinKernel, stream: torch.cuda.Stream) -> None:
    """Let the GPU idle or spin for so long."""
    until = time.perf_counter() + seconds
    if kind == "idle":
        time.sleep(seconds)
    while kind == "spin" and time.perf_counter() < until:
        spin.launch(stream, min(SPIN_NS, int(1e9 * max(0.0, until - time.perf_counter()))))
        stream.synchronize()


class Watch:
    """NVML's figures, read anew at most every NVML_EVERY_S seconds."""

    def __init__(self, sensors: StateSensors) -> None:
        self._sensors = sensors
        self._read_s = float("-inf")
        self.figures: dict[str, float | None] = {}

    def look(self) -> None:
        if (now := time.perf_counter()) - self._read_s >= NVML_EVERY_S:
            self._read_s, self.figures = now, self._sensors.read()


def measure_bursts(
    runner: StageRunner, stream: torch.cuda.Stream, sensors: StateSensors, seconds: float
) -> Iterator[Burst]:
    """Burst after burst of an activated and bound runner, at least one, as long as the next would end in time."""
    spin, prober, watch = SpinKernel(), Prober(runner, stream), Watch(sensors)
    prober.round()  # The first matrix product sets up its library.
    started_s = time.perf_counter()
    for number, (kind, pause_s) in enumerate(pauses()):
        if number and time.perf_counter() - started_s + pause_s + BURST_S > seconds:
            return
        pause(kind, pause_s, spin, stream)
        yield measure_burst(prober, watch, sensors, started_s) | {"pause": kind, "pause_s": pause_s}


def measure_burst(prober: Prober, watch: Watch, sensors: StateSensors, started_s: float) -> Burst:
    """Rounds for BURST_S seconds with all their quantities, and for how long limits held the clocks meanwhile."""
    before = sensors.violations_ms()
    begin = time.perf_counter()
    rounds = []
    while (into := time.perf_counter() - begin) < BURST_S:
        taken = prober.round(watch.look)
        when: dict[str, float | None] = {"into_burst_s": into, "since_start_s": begin + into - started_s}
        rounds.append(round_figures(taken, when | watch.figures))
    after = sensors.violations_ms()
    return {"rounds": rounds, "held_back_ms": {name: _difference(after[name], before[name]) for name in before}}


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else round(after - before, 3)


def round_figures(taken: Round, others: dict[str, float | None]) -> dict[str, Any]:
    """A round as plain data: the times of its samples, their median, and all quantities, to five or six digits."""
    every = taken.probes | others
    quantities = {name: value if value is None else float(f"{value:.6g}") for name, value in every.items()}
    samples = [float(f"{ms:.5g}") for ms in taken.samples_ms]
    return {"median_ms": taken.median_ms, "samples_ms": samples, "quantities": quantities}


def judge(bursts: list[Burst]) -> dict[str, Any]:
    """What the bursts say: states, quantities that tell them, lengths of stay, and what pauses have to do with them.

    ValueError where there are too few times, or all are alike.
    """
    rounds = [item for burst in bursts for item in burst["rounds"]]
    times = [item["median_ms"] for item in rounds]
    states = two_states(times)
    names = list(dict.fromkeys(name for item in rounds for name in item["quantities"]))
    quantities = {name: [item["quantities"].get(name) for item in rounds] for name in names}
    seen = [_burst_shares(burst, states) for burst in bursts]
    stays = [stay for burst in bursts for stay in _stays(burst, states)]
    held = {name: [burst["held_back_ms"][name] for burst in bursts] for name in bursts[0]["held_back_ms"]}
    return {
        "states": states.to_json(),
        "sentence": states.sentence(),
        "telling": telling(times, states, quantities),
        "held_back": telling([burst["median_ms"] for burst in seen], states, held),
        "pauses": by_pause(seen),
        "idle_correlation": pause_correlation(seen),
        "switches_within_bursts": sum(
            before != after for burst in bursts for before, after in itertools.pairwise(_are_slow(burst, states))
        ),
        "longest_stay_s": {
            name: round(max((seconds for slow, seconds in stays if slow is which), default=0.0), 3)
            for name, which in (("fast", False), ("slow", True))
        },
    }


def _burst_shares(burst: Burst, states: States) -> dict[str, Any]:
    slow = _are_slow(burst, states)
    early = [
        is_slow
        for is_slow, item in zip(slow, burst["rounds"], strict=True)
        if item["quantities"]["into_burst_s"] < FIRST_S
    ]
    return {
        "pause": burst["pause"],
        "pause_s": burst["pause_s"],
        "median_ms": stats.median([item["median_ms"] for item in burst["rounds"]]),
        "slow_first": sum(early) / len(early),
        "slow_all": sum(slow) / len(slow),
    }


def _stays(burst: Burst, states: States) -> list[tuple[bool, float]]:
    return visits([item["quantities"]["into_burst_s"] for item in burst["rounds"]], _are_slow(burst, states))


def _are_slow(burst: Burst, states: States) -> list[bool]:
    return [item["median_ms"] > states.threshold_ms for item in burst["rounds"]]


def report(found: dict[str, Any]) -> str:
    """The answer of `judge` for people."""
    lines = [found["sentence"], "", "quantities of the rounds:", *map(telling_line, found["telling"])]
    lines += ["", "ms that a limit held the clocks back, of the bursts:", *map(telling_line, found["held_back"])]
    lines += ["", "share of slow rounds after a pause (first half second, whole burst):"]
    lines += [
        f"{item['pause']:5}{item['pause_s']:4g} s: {item['slow_first']:.2f}, {item['slow_all']:.2f} "
        f"({item['bursts']} bursts)"
        for item in found["pauses"]
    ]
    rho, stay = found["idle_correlation"], found["longest_stay_s"]
    lines.append(f"rank correlation of idle seconds and a burst's median: {'-' if rho is None else f'{rho:+.2f}'}")
    lines.append(
        f"{found['switches_within_bursts']} switches within bursts; longest stay seen: fast {stay['fast']:g} s, "
        f"slow {stay['slow']:g} s (a burst takes {BURST_S:g} s)"
    )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", default="generator:tensorrt:fp16-mixed", help="stage:runner:precision")
    parser.add_argument("--seconds", type=float, default=50.0, help="bursts and pauses together, without loading")
    add_suite_options(parser)
    parser.add_argument("--out", type=Path, help="write everything as JSON, after each burst")
    options = parser.parse_args()
    return options


def main() -> None:
    options = parse()
    if not torch.cuda.is_available():
        raise SystemExit("this needs a GPU: PyTorch sees none")
    suite = make_session(options)
    if (absence := row_absence(suite, options.row)) is not None:
        raise SystemExit(f"{options.row} cannot be measured: {absence}")
    sensors = state_sensors(suite.device)
    written: dict[str, Any] = {"environment": read_environment(suite.device).to_json(), "row": options.row}
    kind, job = row_job(suite, options.row)
    with kind.create(job) as active:
        if active.stream is None:
            raise SystemExit(f"{options.row} has no stream of a GPU")
        active.bind(suite.inputs(job))
        LatencySampler(active).warm_up(GPU_PLAN)
        bursts = written["bursts"] = []
        for burst in measure_bursts(active, active.stream, sensors, options.seconds):
            bursts.append(burst)
            print(f"burst {len(bursts)} {burst_line(burst)}", flush=True)
            _write(options.out, written)
    try:
        found = judge(bursts)
    except ValueError as error:
        raise SystemExit(f"nothing can be said: {error}") from error
    _write(options.out, written | {"found": found})
    print(f"\n{report(found)}")
    sys.exit(0 if found["states"]["are_two"] else 1)


def burst_line(burst: Burst) -> str:
    """One line: median times of the burst's first and second half, and what the probes told last."""
    times = [item["median_ms"] for item in burst["rounds"]]
    middle = len(times) // 2
    halves = " ".join(f"{stats.median(part):.4g}" for part in (times[:middle] or times, times[middle:]))
    held = ", ".join(f"{name} {ms:g} ms" for name, ms in burst["held_back_ms"].items() if ms)
    last = burst["rounds"][-1]["quantities"]
    shown = ("sm_ghz_during", "copy_gb_per_s", "empty_kernel_us", "power_w", "memory_temperature_c")
    told = ", ".join(f"{name} {last[name]:.5g}" for name in shown if last.get(name) is not None)
    return f"after {burst['pause']} {burst['pause_s']:g} s: {halves} ms; {told}; held back: {held or '-'}"


def _write(out: Path | None, written: dict[str, Any]) -> None:
    if out is not None:
        write_file(out, json.dumps(written) + "\n")


if __name__ == "__main__":
    main()
