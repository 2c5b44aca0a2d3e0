"""Searching what to quantize: engines with planted times and drifts, interrupted and resumed, and arithmetic alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from sadtrt_core.accuracy.confirm import Confirmed, confirm_all
from sadtrt_core.accuracy.findings import Budget
from sadtrt_core.accuracy.quantized import pieces_of
from sadtrt_core.accuracy.search import search_command, search_session
from sadtrt_core.accuracy.simulate import Simulator
from sadtrt_core.config import RunConfig
from sadtrt_core.errors import UserError
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.quantize import Calibration
from sadtrt_core.graph.typed import quantized_nodes
from sadtrt_core.measure.drift import Reference, measure_drift
from sadtrt_core.plan import plan_text, read_plan
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.records.measurements import Drift
from sadtrt_core.renderer.stages import STAGES
from sadtrt_core.renderer.workload import frame_inputs
from sadtrt_core.runners.registry import runner_named
from sadtrt_core.session import Session

pytestmark = pytest.mark.usefixtures("_one_thread")
INT8 = PRECISIONS["int8"]
BUDGET = Budget(60.0, 2)
#: Milliseconds that an engine gains by each piece of a kind.
GAINS = {"G_middle convolution": 0.02, "G_middle modulation": 0.005, "up convolution": 0.03, "up modulation": -0.01}


class Planted:
    """A simulator in which every quantized piece adds a squared error of its own, and engines that follow it."""

    def __init__(self, graph, shapes, reference):
        self.graph, self.shapes, self.inputs = graph, shapes, (None,) * len(reference)
        self.reference = reference
        self.pattern = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0)).sign()
        self.rendered = []
        # 60 dB are a squared error of 1e-6: not all pieces fit.
        self.errors = {piece: 0.4e-7 * (1 + index % 5) for index, piece in enumerate(pieces_of(graph))}

    def pieces(self, precision):
        nodes = quantized_nodes(self.graph, precision)
        return [piece for piece in self.errors if nodes.issuperset(piece.nodes)]

    def frames(self, precision, indices):
        self.rendered.append(precision.name)
        error = (1e-8 + sum(self.errors[piece] for piece in self.pieces(precision))) ** 0.5
        return self.reference[list(indices)] + error * self.pattern[list(indices)]

    def engine(self, precision):
        drift = measure_drift(self.reference, self.frames(precision, range(len(self.reference))))
        gained = sum(GAINS[piece.kind] for piece in self.pieces(precision))
        return Confirmed(precision, drift, 3.0 - gained, half_width=0.001)


@pytest.fixture(scope="module")
def graph(tiny):
    return export_stage(tiny, STAGES["generator"])


@pytest.fixture
def session(tiny, graph, tmp_path):
    options = RunConfig(weights="seeded", precisions=("int8",), frames=2, device="cpu", cache=tmp_path)
    made = Session(options)
    made.__dict__["renderer"] = tiny  # Cached properties: the tiny networks and any ranges.
    ranges = {node.name: 2.0 for node in graph.graph.node if node.op_type == "Conv"}
    made.__dict__["calibration"] = Calibration("a test", (0,), tiny.weights.digest, "workload", "exporter", ranges)
    made.__dict__["reference"] = Reference(
        torch.full((2, 3, 16, 16), 0.5), True, Drift((110.0,), (1.0,), (0,), (False,))
    )
    return made


@pytest.fixture
def planted(session, graph):
    items = frame_inputs(session.renderer, session.workload, STAGES["generator"], torch.device("cpu"))
    shapes = {name: tuple(tensor.shape) for name, tensor in items[0].items()}
    return Planted(graph, shapes, session.reference.frames)


@pytest.fixture
def built(monkeypatch, planted):
    """Stands where engines are built and measured: a list of what was asked for, in waves."""
    waves = []

    def confirm(session, kind, precisions, reporter):
        waves.append([precision.name for precision in precisions])
        return [planted.engine(precision) for precision in precisions]

    monkeypatch.setattr("sadtrt_core.accuracy.search.confirm_all", confirm)
    return waves


def search(session, planted, budget=BUDGET, **more):
    return search_session(session, INT8, budget, "mine", worst=1, simulator=planted, **more)


def test_pieces_are_main_convolutions_and_modulations_outside_the_last_block(graph):
    pieces = pieces_of(graph)
    assert {piece.kind for piece in pieces} == set(GAINS)
    assert sum(len(piece.nodes) for piece in pieces) == 12 + 2 * 12 + 3 + 2 * 3
    nodes = [node for piece in pieces for node in piece.nodes]
    assert not any("mlp_shared" in node or "up_1" in node or "conv_img" in node for node in nodes)
    modulation = next(piece for piece in pieces if piece.name == "/decoder/up_0/norm_s")
    assert sorted(node.split("/")[4] for node in modulation.nodes) == ["mlp_beta", "mlp_gamma"]


def test_the_fastest_engine_that_holds_the_budget_is_the_plan(session, planted, built):
    found = search(session, planted, kind=runner_named("onnxruntime"))
    first, second = built
    kinds = dict.fromkeys(piece.kind.replace(" ", "-") for piece in planted.errors)
    assert first == ["fp16-mixed", *kinds, "everything"]
    assert second
    assert all(name.endswith("to-spare") for name in second)
    chosen = planted.pieces(found.plan.precision)
    # What gains nothing is not in it, and no engine that was measured is faster and holds the budget.
    assert chosen
    assert "up modulation" not in {piece.kind for piece in chosen}
    holding = [one for one in found.engines if BUDGET.met_by(one.loss)]
    assert min(one.latency_ms for one in holding) == pytest.approx(found.plan.measured["latency_ms"], abs=1e-4)
    assert len(found.engines) == len(first) + len(second)
    assert found.plan.measured["psnr_min_db"] >= 60
    assert found.plan.measured["fp16_mixed_latency_ms"] == 3.0
    assert found.plan.measured["types_psnr_min_db"] == pytest.approx(found.plan.measured["psnr_min_db"], abs=0.01)
    assert found.plan.measured["calibration"] == session.calibration.digest[:16]
    assert "faster than the built-in fp16-mixed" in found.said[0]
    assert found.plan.precision == replace(
        PRECISIONS["fp16-mixed"], name="mine", why=found.plan.why, quantize=found.plan.precision.quantize
    )


def test_an_interrupted_search_asks_for_nothing_twice_but_the_engines(session, planted, built, monkeypatch):
    whole = search(session, planted, kind=runner_named("onnxruntime"))
    simulated = [name for name in planted.rendered if name == "candidate"]
    again = search(session, planted, kind=runner_named("onnxruntime"))
    assert again.trials == 0
    assert again.plan == whole.plan
    assert [name for name in planted.rendered if name == "candidate"] == simulated

    def interrupted(*given):
        raise KeyboardInterrupt

    session.options = replace(session.options, cache=session.options.cache / "other")
    with monkeypatch.context() as patch:
        patch.setattr("sadtrt_core.accuracy.search.confirm_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(session, planted, kind=runner_named("onnxruntime"))
    resumed = search(session, planted, kind=runner_named("onnxruntime"))
    assert resumed.plan == whole.plan
    assert 0 < resumed.trials < whole.trials


def test_no_plan_where_no_engine_is_faster_or_none_holds(session, planted, built, monkeypatch):
    runner = runner_named("onnxruntime")
    assert search(session, planted, Budget(81.0), kind=runner).plan is None
    monkeypatch.setattr(planted, "engine", lambda p: Confirmed(p, Drift((70.0,), (1.0,), (1,), (False,)), 3.0, 0.002))
    slow = search(session, planted, kind=runner)
    assert slow.plan is None
    assert slow.said[0].startswith("no int8 plan that is faster than fp16-mixed holds 60 dB and 2 of 255")
    assert len(slow.engines) == len(GAINS) + 2


def test_a_kind_that_cannot_be_built_gains_nothing(session, planted, monkeypatch):
    def confirm(session, kind, precisions, reporter):
        return [planted.engine(p) for p in precisions if p.name not in ("up-convolution", "everything")]

    monkeypatch.setattr("sadtrt_core.accuracy.search.confirm_all", confirm)
    found = search(session, planted, kind=runner_named("onnxruntime"))
    assert {piece.kind for piece in planted.pieces(found.plan.precision)} <= {
        "G_middle convolution",
        "G_middle modulation",
    }


def test_without_engines_the_most_arithmetic_that_holds_is_the_plan(session, planted):
    found = search(session, planted)
    assert found.plan.measured["psnr_min_db"] >= 60
    assert 0 < found.plan.measured["arithmetic_in_8_bits"] < 1
    assert len(planted.pieces(found.plan.precision)) > 5
    assert search(session, planted, Budget(81.0)).plan is None


def test_a_plan_that_quantizes_is_written_and_read_and_its_engines_are_drawn(session, planted, built, tmp_path):
    found = search(session, planted, kind=runner_named("onnxruntime"))
    (tmp_path / "mine.toml").write_text(plan_text(found.plan))
    assert read_plan(tmp_path / "mine.toml") == found.plan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sadtrt_core.accuracy.search.search_session", lambda *given: found)
        said = Console(record=True, width=200, file=io.StringIO())
        assert search_command(session, BUDGET, 1, tmp_path / "out" / "mine.toml", said, Console(quiet=True))
    engines = json.loads((tmp_path / "out" / "mine.engines.json").read_text())["engines"]
    assert [one["precision"]["name"] for one in engines] == [one.precision.name for one in found.engines]
    assert (tmp_path / "out" / "mine.svg").read_text().startswith("<svg")
    assert f"{len(engines)} engines measured in " in said.export_text()
    assert read_plan(tmp_path / "out" / "mine.toml") == found.plan


def test_a_plan_that_quantizes_something_else_is_no_base(session, planted):
    with pytest.raises(UserError, match="no base to search from"):
        search_session(session, replace(INT8, keep_picture=False), BUDGET, "x", simulator=planted)


def test_engines_of_plans_that_quantize_are_given_the_ranges(session, monkeypatch):
    """Without a GPU nothing is built: the jobs that would be are looked at."""
    jobs = []
    drift = Drift((70.0,), (1.0,), (1,), (False,))
    monkeypatch.setattr("sadtrt_core.accuracy.confirm.confirm", lambda *given: Confirmed(given[-1], drift, 1.0))
    kind = replace(runner_named("onnxruntime"), absence=lambda job: jobs.append(job))
    confirm_all(session, kind, [INT8, PRECISIONS["fp16-mixed"]])
    assert [job.calibration for job in jobs[:2]] == [session.calibration, None]


def test_weights_on_the_device_are_quantized_as_those_of_the_graph(session, graph):
    items = frame_inputs(session.renderer, session.workload, STAGES["generator"], torch.device("cpu"))
    here, there = (Simulator(graph, items, torch.device("cpu"), session.calibration) for _ in range(2))
    here._lifted_graph, here._weights = graph, {}
    first, second = (simulator.frames(INT8, [0]) for simulator in (here, there))
    assert torch.equal(first, second)
    assert {value.name for value in there.rounded(INT8).graph.input} < set(there._weights) | set(items[0])
