"""The other checkout's process in `sadtrt compare --checkout`: one JSON line in, one out, until the input ends."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

import sadtrt_core


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Load what the first line asks for, then take samples or render for every line that follows."""
    from sadtrt_core.benchmark import BENCHMARK_VERSION
    from sadtrt_core.compare.sides import local_side, read_question
    from sadtrt_core.errors import BuildError, UserError
    from sadtrt_core.progress import ConsoleReporter, make_console
    from sadtrt_core.session import Session

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    asked = json.loads(questions.readline())
    # A caller of another version means something else by device time, and falls back to host times.
    alike = asked.get("benchmark_version") == BENCHMARK_VERSION
    try:
        side, config = read_question(asked)
        session = Session(config, report=ConsoleReporter(make_console(stderr=True)))
        with local_side(side, session) as local:
            first = {"call_seconds": local.call_seconds, "renders": True, "benchmark_version": BENCHMARK_VERSION}
            answer({**first, "weights": session.renderer.weights.digest, "workload": session.workload.digest})
            for line in questions:
                asked = json.loads(line)
                if "render" in asked:
                    np.save(asked["render"], local.render().numpy())
                    answer({})
                else:
                    taken = local.sample(int(asked["take"]))
                    device = taken.device_ms if alike else None
                    answer({"host_ms": taken.host_ms, "device_ms": device, "late": taken.late})
    except (UserError, BuildError, OSError) as error:
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
