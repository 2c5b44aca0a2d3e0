"""`sadtrt fleet` on Ray's own local cluster of simulated machines, of which one dies for good and one is replaced."""

from __future__ import annotations

import pytest
from reports import Kept
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.errors import UserError
from sadtrt_core.fleet import Outcome, kinds_of, run_fleet
from sadtrt_core.records.store import read_run

SUITE = ["--stage", "mapping", "--precision", "fp32", "--weights", "seeded", "--device", "cpu"]
SUITE += ["--runner", "pytorch", "--runner", "onnxruntime"]


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": {name.replace("__", ":"): value for name, value in resources.items()}}


def test_a_task_has_a_machine_of_its_kind_to_itself():
    nodes = [
        node(CPU=64.0, GPU=8.0, accelerator_type__H100=1.0),
        node(CPU=32.0, GPU=8.0, accelerator_type__H100=1.0),
        node(CPU=8.0, GPU=1.0, accelerator_type__L4=1.0),
        node(False, CPU=8.0, GPU=1.0, accelerator_type__T4=1.0),
        node(CPU=4.0),
    ]
    kinds = kinds_of(nodes)
    assert kinds["H100"] == {"num_cpus": 32.0, "num_gpus": 1, "resources": {"accelerator_type:H100": 0.001}}
    assert list(kinds) == ["H100", "L4"]
    assert kinds_of([node(CPU=4.0), node(CPU=8.0)]) == {"CPU": {"num_cpus": 8.0, "num_gpus": 0}}
    assert kinds_of([]) == {}


class Killing(Kept):
    """A reporter that ends a kind's machine when its suite has begun, once for every machine named."""

    def __init__(self, kill):
        super().__init__()
        self.kill = kill

    def progress(self, task, done, total):
        kind = task.partition(": ")[0]
        if total == 100 and done < 100 and self.kill.get(kind):
            self.kill[kind].pop()()


@pytest.fixture
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[fleet]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield made
    made.shutdown()


def test_a_machine_that_dies_is_replaced_once_and_then_missing(cluster, tmp_path):
    def add(kind):
        return cluster.add_node(num_cpus=1, resources={f"accelerator_type:{kind}": 1})

    def ends(machine):
        return lambda: cluster.remove_node(machine, allow_graceful=False)

    def replaced():
        add("L4")
        ends(first)()

    first, only = add("L4"), add("T4")
    report = Killing({"L4": [replaced], "T4": [ends(only)]})
    outcomes = {one.kind: one for one in run_fleet(cluster.address, (), SUITE, tmp_path, report)}
    said = "\n".join(report.lines)
    assert set(outcomes) == {"L4", "T4"}
    assert "L4: lost with its machine" in said
    assert outcomes["L4"] == Outcome("L4", tmp_path / "L4", None), said
    run = read_run(tmp_path / "L4")
    assert run.complete
    # Rows are measured in an order that is drawn.
    measured = sorted(record.key.runner for record in run.records if record.status == "measured")
    assert measured == ["onnxruntime", "pytorch"]
    assert (tmp_path / "L4" / "report.html").exists()
    assert outcomes["T4"].folder is None
    assert outcomes["T4"].problem.startswith("missing")
    assert not (tmp_path / "T4").exists()


def test_a_bad_price_is_refused_before_anything_is_measured(tmp_path):
    result = CliRunner().invoke(app, ["fleet", "--results", str(tmp_path), "--price", "L4", "--", "--stage", "mapping"])
    assert result.exit_code == 2
    assert "'L4' is no price an hour" in result.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_a_kind_that_the_cluster_has_not_and_one_that_is_not_there_are_refused(cluster, tmp_path):
    cluster.add_node(num_cpus=1, resources={"accelerator_type:L4": 1})
    with pytest.raises(UserError, match="--kind A100: the cluster has no such machine, only L4"):
        run_fleet(cluster.address, ("A100",), [], tmp_path, Kept())
