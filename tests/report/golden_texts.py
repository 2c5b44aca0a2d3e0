"""Every text that is made of the committed baselines, by file name: what the golden files of tests/data/golden hold."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.output import gate_json, gate_junit, gate_markdown, print_gate
from sadtrt_core.records.schema import Run
from sadtrt_core.records.store import read_run
from sadtrt_core.report.html import markdown_summary, print_tables, write_html
from sadtrt_core.report.tables import summary_csv

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
DIGESTS = "digests.txt"
#: Its texts are kept whole, so that a difference can be read; of the others a digest is.
WHOLE = "h200-trt8.6"


def worse(run: Run) -> Run:
    """The run with device times 10% longer, 1 dB and a grey level lost, and 30% more memory, engine and energy."""
    records = []
    for record in run.records:
        latency, drift, used = record.latency, record.drift, record.resources
        if latency is not None and latency.device_ms is not None:
            latency = dataclasses.replace(latency, device_ms=tuple(1.1 * ms for ms in latency.device_ms))
        if drift is not None:
            lost = tuple(None if value is None else value - 1.0 for value in drift.psnr_db)
            drift = dataclasses.replace(drift, psnr_db=lost, max_lsb=tuple(value + 1 for value in drift.max_lsb))
        if used is not None:
            grown = {name: value and 1.3 * value for name, value in vars(used).items()}
            used = dataclasses.replace(used, **grown)
        records.append(dataclasses.replace(record, latency=latency, drift=drift, resources=used))
    return dataclasses.replace(run, records=tuple(records))


#: A number in more digits than are the same on every processor.
_LONG = re.compile(r"\d+\.\d{8,}(?:e-?\d+)?")


def texts(baselines: Path) -> Iterator[tuple[str, str]]:
    """File name and text of every report of every baseline, and of every gate decision between two of them.

    Numbers are in nine digits: what a logarithm or its exponential has in the sixteenth depends on the processor.
    """
    for name, text in _whole_texts(baselines):
        yield name, _LONG.sub(lambda found: f"{float(found[0]):.9g}", text)


def _whole_texts(baselines: Path) -> Iterator[tuple[str, str]]:
    runs = {path.parent.name: read_run(path) for path in sorted(baselines.glob("*/records.json"))}
    for name, run in runs.items():
        yield f"{name}/summary.csv", summary_csv(run)
        yield f"{name}/tables.txt", _printed(lambda console, run=run: print_tables(run, console))
        yield f"{name}/summary.md", markdown_summary(run)
        with tempfile.TemporaryDirectory() as folder:
            page = write_html(run, Path(folder)).read_text("utf-8")
        # The chart's bytes are matplotlib's, of whichever version is installed.
        yield f"{name}/report.html", re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", page)
    thresholds = Thresholds.read(ROOT / "pyproject.toml")
    pairs = [(a, b, runs[a], runs[b]) for a, b in itertools.product(runs, runs)]
    pairs += [(f"{name}-worse", name, worse(run), run) for name, run in runs.items()]
    for a, b, candidate, baseline in pairs:
        result = compare_runs(candidate, baseline, thresholds)
        yield f"{a}/gate-{b}.json", gate_json(result)
        yield f"{a}/gate-{b}.md", gate_markdown(result)
        yield f"{a}/gate-{b}.xml", gate_junit(result)
        yield f"{a}/gate-{b}.txt", _printed(lambda console, result=result: print_gate(result, console))


def digest(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_kept_whole(name: str) -> bool:
    """Whether the golden files hold this text itself."""
    return (name.split("/")[0] == WHOLE and not name.startswith(f"{WHOLE}/gate-")) or name in (
        f"{WHOLE}-worse/gate-{WHOLE}.md",
        f"{WHOLE}-worse/gate-{WHOLE}.json",
    )


def write_golden(made: dict[str, str]) -> None:
    """Make these texts the golden ones."""
    for name, text in made.items():
        if is_kept_whole(name):
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_text(text)
    (GOLDEN / DIGESTS).write_text("".join(f"{digest(text)} {name}\n" for name, text in made.items()))


def _printed(show: object) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=200))  # type: ignore[operator]
    return stream.getvalue()


if __name__ == "__main__":
    write_golden(dict(texts(ROOT / "results" / "baselines")))
