"""The other checkout's process in `sadtrt compare --checkout`: one JSON line in, one out, until the input ends."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console

import sadtrt_core


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Load what the first line asks for, then take a turn for every line that follows."""
    from sadtrt_core.benchmark import BENCHMARK_VERSION
    from sadtrt_core.compare.side import Conditions, Side
    from sadtrt_core.compare.sides import LocalSide, local_side
    from sadtrt_core.errors import BuildError
    from sadtrt_core.progress import ConsoleReporter

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    def take_turns(contestant: LocalSide, alike: bool) -> None:
        version = {"benchmark_version": BENCHMARK_VERSION}
        answer({"call_seconds": contestant.call_seconds, "renders": True} | version)
        for line in questions:
            asked = json.loads(line)
            if "render" in asked:
                np.save(asked["render"], contestant.render().numpy())
                answer({})
                continue
            turn = contestant.take(int(asked["take"]))
            # A caller of another version means something else by device time, and falls back to host times.
            device = turn.device_ms if alike else None
            answer({"host_ms": turn.host_ms, "device_ms": device, "late": turn.late})

    asked = json.loads(questions.readline())
    try:
        side, conditions = Side(**asked["side"]), Conditions(**asked["conditions"])
        suite = conditions.suite(ConsoleReporter(Console(stderr=True)))
        with local_side(side, conditions, suite) as contestant:
            take_turns(contestant, asked.get("benchmark_version") == BENCHMARK_VERSION)
    except (ValueError, TypeError, BuildError, OSError) as error:
        answer({"error": " ".join(str(error).split())})


def main() -> None:
    """Serve on the standard streams; whatever else prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaded = Path(sadtrt_core.__file__).absolute().parents[1]
    if loaded.resolve() != Path.cwd().resolve():
        print(json.dumps({"error": f"Python loaded sadtrt_core from {loaded}"}), file=answers, flush=True)
        return
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
