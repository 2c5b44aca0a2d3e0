"""What was measured and decided in the gate experiment, as plain data and as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gate_decisions import StoredRun, all_pairs, picture_decisions, power_decisions, same_code_decisions

from sadtrt_core import stats
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.records.schema import Latency, Record, Run

ALARMS_SHOWN = 10


def decide(
    stored: list[StoredRun],
    fresh: list[Run],
    again: int,
    portrait: torch.Tensor,
    settings: Mapping[str, Thresholds],
) -> dict[str, Any]:
    """All decisions under each of the `settings`, and the rows' own figures. Raises ValueError without a plain run."""
    plain = [item.run for item in stored if item.planted == 0]
    if not plain:
        raise ValueError("there is no run of unchanged code to decide on: let it measure for longer")
    first = plain[0]
    answers: dict[str, Any] = {"environment": first.environment.to_json(), "measured_again": again}
    answers["rows"] = [_row([run.records[index] for run in plain]) for index in range(len(first.records))]
    for name, thresholds in settings.items():
        answers[name] = {
            "stored": same_code_decisions(all_pairs(stored), thresholds),
            "fresh": same_code_decisions([(run, first) for run in fresh], thresholds),
            "fresh against every stored": same_code_decisions(
                [pair for run in fresh for other in plain for pair in ((run, other), (other, run))], thresholds
            ),
            "power": power_decisions(stored, thresholds),
        }
    answers["picture"] = picture_decisions(portrait, first, Thresholds())
    return answers


def _row(records: list[Record]) -> dict[str, Any]:
    """One row's figures over the runs of unchanged code."""
    latencies = [record.latency for record in records if record.latency is not None]
    reasons = {reason for record in records if record.telemetry for reason in record.telemetry.throttle_reasons}
    return {
        "row": records[0].key.label(),
        "clock": "host" if latencies[0].device_ms is None else "device",
        "runs": len(latencies),
        "median_ms": _spread([stats.median(latency.judged_ms) for latency in latencies]),
        "visit_ms": _spread([ms for latency in latencies for ms in visit_medians(latency)]),
        "host_ms": _spread([latency.host_ms_median for latency in latencies]),
        "energy_mj": _spread([record.resources.energy_mj_per_frame for record in records if record.resources]),
        "gpu_memory_mb": _spread([record.resources.gpu_memory_mb for record in records if record.resources]),
        "steady": sum(latency.steady for latency in latencies),
        "disturbed_samples": sum(len(latency.disturbed) for latency in latencies),
        "samples": sum(len(latency.host_ms) for latency in latencies),
        "throttle_reasons": sorted(reasons),
    }


def visit_medians(latency: Latency) -> list[float]:
    """Median in ms of each visit's samples."""
    return [stats.median(times) for times in latency.visits_ms]


def _spread(values: list[float | None]) -> dict[str, float] | None:
    """Median, and how far the lowest and the highest are from it in percent; None where not all are known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values) or not (middle := stats.median(known)):
        return None
    low, high = (round(100 * (end / middle - 1), 2) for end in (min(known), max(known)))
    return {"median": round(middle, 5), "lowest_percent": low, "highest_percent": high}


def table(answers: dict[str, Any], settings: Mapping[str, Thresholds]) -> str:
    """Markdown of the decisions."""
    where = answers["environment"]
    machine = where["gpu"] or f"{where['cpu']} x {where['cpu_count']}, no GPU"
    versions = [f"torch {where['torch']}", f"TensorRT {where['tensorrt']}"] + (
        [f"driver {where['driver']}"] if where["gpu"] else []
    )
    versions.append(f"sadtrt {where['sadtrt_version']} ({where['commit']})")
    lines = ["# Gate experiment", "", f"{machine}; {', '.join(versions)}."]
    if answers["measured_again"]:
        lines += ["", f"{answers['measured_again']} runs were measured again because other processes were at work."]
    lines += ["", "| row | clock | runs | median ms | lowest to highest median | single visits | "]
    lines[-1] += "host time | energy | steady | disturbed samples | throttled by |"
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for row in answers["rows"]:
        cells = [row["row"], row["clock"], row["runs"], f"{row['median_ms']['median']:.4g}", _range(row["median_ms"])]
        cells += [
            _range(row["visit_ms"]),
            _range(row["host_ms"]),
            _range(row["energy_mj"]),
            f"{row['steady']} of {row['runs']}",
        ]
        cells += [f"{row['disturbed_samples']} of {row['samples']}", ", ".join(row["throttle_reasons"]) or "-"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name in settings:
        lines += _setting(name, answers[name])
    lines += ["", "## Picture (default limits)", "", "| planted | called worse |", "|---|---:|"]
    names = {"false_alarms": "nothing", "one_decibel_caught": "1 dB", "one_level_caught": "1 level of one pixel"}
    lines += [f"| {words} | {_count(answers['picture'][key])} |" for key, words in names.items()]
    return "\n".join(lines) + "\n"


def _setting(name: str, part: dict[str, Any]) -> list[str]:
    lines = ["", f"## {name}", "", "| identical code | decisions | false alarms | rows called worse | not comparable |"]
    lines.append("|---|---:|---:|---:|---:|")
    names = {
        "stored": "stored runs, every two, both ways",
        "fresh": "fresh processes, each against the first stored run",
        "fresh against every stored": "fresh processes and stored runs, every two, both ways",
    }
    for kind, words in names.items():
        said = part[kind]
        counts = [_count(said[key]) for key in ("false_alarms", "rows_called_worse", "not_comparable")]
        lines.append(f"| {words} | {said['decisions']} | {' | '.join(counts)} |")
    alarms = [*part["stored"]["alarms"], *part["fresh against every stored"]["alarms"]]
    if alarms:
        lines += ["", "False alarms:", "", *(f"- {alarm}" for alarm in alarms[:ALARMS_SHOWN])]
        lines += [f"- and {len(alarms) - ALARMS_SHOWN} more or others"] if len(alarms) > ALARMS_SHOWN else []
    if part["power"]:
        lines += [
            "",
            "| planted slowdown | row | limit | caught | interval above zero | not comparable | median change |",
        ]
        lines.append("|---:|---|---:|---:|---:|---:|---:|")
    for entry in part["power"]:
        caught, shown, unjudged = (_count(entry[key]) for key in ("caught", "interval_above_zero", "not_comparable"))
        seen = entry["median_change_percent"]
        change = "-" if seen is None else f"{seen:+.1f}%"
        limit = "-" if entry["median_limit_percent"] is None else f"{entry['median_limit_percent']:.3g}%"
        cells = (f"{entry['planted_percent']:g}%", entry["row"], limit, caught, shown, unjudged, change)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _range(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['lowest_percent']:+.1f}% to {spread['highest_percent']:+.1f}%"


def _count(share: dict[str, Any]) -> str:
    return f"{share['count']} of {share['of']}"
