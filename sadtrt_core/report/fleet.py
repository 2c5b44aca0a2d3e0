"""Runs of several GPUs in one table and one chart: what each precision takes and costs there, and the cheapest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sadtrt_core.errors import UserError
from sadtrt_core.records.schema import Record, Run
from sadtrt_core.report.chart import TEMPLATES, Spot, choices, draw_spots, frontier
from sadtrt_core.report.ratios import frame_time, judged_stage
from sadtrt_core.report.tables import TextTable, breaks_of
from sadtrt_core.report.text import decibels, milliseconds


@dataclass(frozen=True)
class Offer:
    """A generator's row on one GPU that no other there beats in both time and picture.

    `ms` is the time of a frame by `clock` (`frame_time`), `psnr` the worst frame's in dB. `price` is an hour's, in
    whatever money it was given; None where none was.
    """

    gpu: str
    record: Record
    clock: str
    ms: float
    psnr: float
    price: float | None

    @property
    def cost(self) -> float | None:
        """What 1,000 frames cost: as many seconds as a frame takes milliseconds."""
        return None if self.price is None else self.price * self.ms / 3600

    def sentence(self) -> str:
        """The offer in words."""
        costs = "" if self.cost is None else f"{self.cost:.3g} for 1,000 frames, "
        key = self.record.key
        return f"{self.gpu}, {key.runner} {key.precision}: {costs}{milliseconds(self.ms)} ms, {decibels(self.psnr)} dB"


def parse_prices(given: Sequence[str]) -> dict[str, float]:
    """Prices an hour by GPU, from texts such as "L4=0.70". Raises UserError."""
    prices = {}
    for text in given:
        name, _, number = (part.strip() for part in text.rpartition("="))
        if not name or re.fullmatch(r"\d{1,9}(\.\d+)?", number) is None or not float(number):
            raise UserError(f'--price {text!r} is no price an hour of a GPU: expected such as "L4=0.70"')
        prices[name] = float(number)
    return prices


def gpu_name(run: Run) -> str:
    """What a run computed on: the GPU, or the processor where there was none."""
    return run.environment.gpu or f"CPU {run.environment.cpu}".strip()


def fleet_offers(runs: Sequence[Run], prices: Mapping[str, float]) -> tuple[Offer, ...]:
    """Every GPU's offers, fastest first, GPU by GPU as given.

    A price is a GPU's where its name has those words: L4 is no L40S. Of several the longest counts. Raises UserError
    for a price that is no run's, and for runs of several picture sizes or stages, or of the small demo renderer beside
    full-size ones.
    """
    if len({run.workload.size for run in runs}) > 1:
        raise UserError("the runs render pictures of several sizes, so that neither times nor costs compare")
    if len({judged_stage(run) for run in runs} - {None}) > 1:
        raise UserError("some runs have pictures of the generator, others of the frame alone: give runs of one stage")
    if len({run.weights.kind == "demo" for run in runs}) > 1:
        small = ", ".join(gpu_name(run) for run in runs if run.weights.kind == "demo")
        raise UserError(
            f"the small demo renderer was measured on {small}, a full-size one elsewhere: give all of them "
            "--weights=fit or a --checkpoint"
        )
    names = [gpu_name(run) for run in runs]
    for word in prices:
        if not any(_names(word, name) for name in names):
            raise UserError(f"--price {word} is the price of no run here: they are of {', '.join(names)}")
    return tuple(offer for run in runs for offer in _offers(run, prices))


def _names(word: str, gpu: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", gpu, re.IGNORECASE) is not None


def _offers(run: Run, prices: Mapping[str, float]) -> list[Offer]:
    gpu = gpu_name(run)
    price = prices.get(max((word for word in prices if _names(word, gpu)), key=len, default=""))
    points = []
    for record in choices(run):
        assert record.drift is not None  # Of every choice.
        ms, clock = frame_time(record)
        points.append((ms, record.drift.psnr_min, clock, record))
    return [Offer(gpu, record, clock, ms, psnr, price) for ms, psnr, clock, record in frontier(points)]


def fleet_table(offers: Sequence[Offer]) -> TextTable:
    """One row an offer."""
    priced = any(offer.price is not None for offer in offers)
    headings: tuple[str, ...] = ("GPU", "runner", "precision", "clock", "ms a frame", "frames a second", "PSNR min dB")
    rows = []
    for offer in offers:
        key = offer.record.key
        figures = (milliseconds(offer.ms), f"{1000 / offer.ms:,.1f}" if offer.ms else "-", decibels(offer.psnr))
        costs = tuple("-" if value is None else f"{value:.3g}" for value in (offer.price, offer.cost)) if priced else ()
        rows.append((offer.gpu, key.runner, key.precision, offer.clock, *figures, *costs))
    headings += ("price an hour", "1,000 frames") if priced else ()
    note = "Of each GPU the rows that no other beats in both time and picture."
    return TextTable("GPUs", headings, tuple(rows), 4, breaks_of([offer.gpu for offer in offers]), note)


def fleet_sentences(runs: Sequence[Run], offers: Sequence[Offer], min_psnr: float) -> tuple[str, ...]:
    """The choice at the asked PSNR, in dB, and what a reader must know before believing it."""
    said = []
    enough = [offer for offer in offers if offer.psnr >= min_psnr]
    priced = [(offer.cost, offer) for offer in enough if offer.cost is not None]
    if not offers:
        said.append("no run has a row with both a time and a drift that means something: nothing compares")
    elif not enough:
        said.append(f"no row holds {min_psnr:g} dB: the best has {decibels(max(offer.psnr for offer in offers))}")
    else:
        said.append(f"fastest at {min_psnr:g} dB: {min(enough, key=lambda offer: offer.ms).sentence()}")
        if priced:
            said.append(f"cheapest at {min_psnr:g} dB: {min(priced, key=lambda one: one[0])[1].sentence()}")
    without = dict.fromkeys(offer.gpu for offer in offers if offer.price is None)
    if priced and without:
        said.append(f"no --price was given for {', '.join(without)}")
    facts: dict[str, list[str | None]] = {
        "weights": [run.weights.digest for run in runs],
        "workload": [run.workload.digest for run in runs],
        "commit": [run.environment.commit for run in runs],
        "benchmark version": [str(sorted({one.benchmark_version for one in run.records})) for run in runs],
        "TensorRT": [run.environment.tensorrt for run in runs],
        "PyTorch": [run.environment.torch for run in runs],
        "builder level": [run.options.get("optimization_level") for run in runs],
    }
    if several := [name for name, values in facts.items() if len(set(values)) > 1]:
        said.append(f"the runs differ in more than the GPU: {', '.join(several)}")
    said += [f"the run of {gpu_name(run)} was interrupted: rows are missing" for run in runs if not run.complete]
    return tuple(said)


def fleet_page(offers: Sequence[Offer], sentences: Sequence[str]) -> str:
    """One HTML page that needs no other: the choice, the chart with a mark a GPU, the table."""
    spots = [Spot(one.ms, one.psnr, one.gpu, one.record.key.precision, row=one.sentence()) for one in offers]
    chart = draw_spots(spots, "time", *{offer.record.key.stage for offer in offers})
    return TEMPLATES.get_template("fleet.html.jinja").render(
        table=fleet_table(offers), sentences=sentences, chart=chart
    )
