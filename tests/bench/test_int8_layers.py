"""What the int8 experiment reads from an engine's layers: types of convolutions, and where the time goes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sadtrt_core.engine.layers import parse_layers

ROOT = Path(__file__).parents[2]
INT8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF = "Channel major FP16 format where channel % 8 == 0"
FLOAT = "Row major linear FP32"
A, B, C, D, E = (f"/decoder/{name}/Conv" for name in ("a", "b", "b/mlp_gamma", "d", "e"))
EVERY = (A, B, C, D, E)
TACTIC = "sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_nchw"


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench" / "experiments"), *sys.path])


def layer(name, reads, writes, kind="CaskConvolution", **more):
    doors = [[{"Name": "t", "Dimensions": [1, 8, 4, 4], "Format/Datatype": text}] for text in (reads, writes)]
    return {"Name": name, "LayerType": kind, "Inputs": doors[0], "Outputs": doors[1], **more}


def engine(*layers):
    return parse_layers(json.dumps({"Layers": layers}))


def test_a_layers_name_is_taken_apart_at_what_joins_it():
    from int8_layers import node_names

    fused = f"weights.a + {A}/QuantizeLinear_6 + {A} || weights.d + {D}/QuantizeLinear_6 + {D}"
    assert {A, D} <= node_names(fused)
    assert B not in node_names(f"weights + {C}"), "one node's name that begins another's"
    assert A not in node_names(f"Reformatting CopyNode for Input Tensor 0 to {A}")
    assert A not in node_names(f"{A}/QuantizeLinear_3_clone_0"), "what only quantises for it"
    assert node_names("PWN(PWN(/decoder/Add), /decoder/LeakyRelu)") >= {"/decoder/Add", "/decoder/LeakyRelu"}
    assert A in node_names(f"{A}\x1e[ONNX Layer: {A}]")


def test_convolutions_that_are_not_what_the_graph_says_are_named():
    from int8_layers import compare_convolutions

    layers = engine(
        layer(f"w + {A} + /decoder/Relu || w + {B}", INT8, INT8, TacticName=TACTIC),
        layer(f"w + {C}", INT8, HALF, TacticName="0x1234"),
        layer(D, HALF, HALF),
        layer(f"Reformatting CopyNode for Input Tensor 0 to {E}", INT8, HALF, "Reformat"),
    )
    found = compare_convolutions(layers, EVERY, {A, B, D, E})
    assert found.int8_though_spared == (C,)
    assert found.not_int8_though_quantised == (D,)
    assert found.shown_nowhere == (E,)
    assert (found.in_int8, found.quantized, found.merged) == (2, 4, (2,))
    assert found.tactics == {"i8f16_i8i32_f32": 1, "unknown": 1}
    assert found.results == {"int8": 1, "half": 1}
    text = "\n".join(found.lines())
    assert "2 of 4 quantised convolutions read int8, merged: 2 in one layer" in text
    assert f"int8 though spared: 1 ({C})" in text


def test_an_engine_that_obeys_names_nothing():
    from int8_layers import compare_convolutions

    found = compare_convolutions(engine(layer(A, INT8, FLOAT), layer(D, HALF, HALF)), EVERY, {A})
    assert found.lines() == [
        "1 of 1 quantised convolutions read int8",
        "their tactics: 1 unknown; what they put out: 1 float32",
    ]


def times():
    from int8_layers import group_times

    layers = engine(
        layer(f"w + {A}", INT8, HALF),
        layer(D, HALF, HALF),
        layer("a gemm of no name we know", HALF, HALF, "CaskGemmConvolution"),
        layer(f"Reformatting CopyNode for Input Tensor 0 to {A}", HALF, INT8, "Reformat"),
        layer("PWN(/decoder/Add)\x1e[ONNX Layer: /decoder/Add]", HALF, HALF, "PointWiseV2"),
    )
    told = {
        f"w + {A}": 0.5,
        D: 1.0,
        "a gemm of no name we know": 0.25,
        f"Reformatting CopyNode for Input Tensor 0 to {A}": 0.125,
        "PWN(/decoder/Add)": 2.0,
        "something else": 4.0,
    }
    return group_times(layers, told, EVERY, {A})


def test_times_are_put_into_groups_and_none_is_lost():
    found = times()
    assert found.groups == {"int8 convolutions": 0.5, "other convolutions": 1.25, "copies": 0.125, "the rest": 2.0}
    assert found.counts == {"int8 convolutions": 1, "other convolutions": 2, "copies": 1, "the rest": 1}
    assert (found.untold, found.total, found.quantised_ms) == (4.0, 7.875, 0.5)
    assert found.line().endswith("+ 4.000 of unknown layers = 7.875 ms")


def test_gain_and_loss_against_half_can_be_read_off():
    from int8_layers import Times

    half = Times({"int8 convolutions": 0, "other convolutions": 2, "copies": 0.1, "the rest": 2}, {}, 4.0, 0)
    assert times().against(half, 0.75) == (
        "against half: convolutions -0.250, copies +0.025, the rest +0.000 ms; "
        "layers of the quantised convolutions 0.500 ms, in half 0.750"
    )


class FakeSession:
    """Tells a profiler two layers, one of them twice, at its own pace."""

    def __init__(self, pace):
        self.pace, self.profiler, self.calls, self.stream = pace, None, 0, self

    def profile(self, profiler):
        assert self.calls > 0, "the first calls are slow and must not be counted"
        self.profiler = profiler

    def execute(self):
        self.calls += 1
        if self.profiler is not None and self.pace is not None:
            for name, ms in (("a", self.pace), ("b", 1.0), ("b", 1.0)):
                self.profiler.report_layer_time(name, ms)

    def synchronize(self):
        pass


class FakeTensorRT:
    class IProfiler:
        pass


def test_layers_are_timed_after_warm_up_and_those_of_one_name_added():
    from int8_processes import layer_times

    assert layer_times(FakeTensorRT, FakeSession(0.5)) == {"a": 0.5, "b": 2.0}
    with pytest.raises(RuntimeError, match="told its profiler of no layer"):
        layer_times(FakeTensorRT, FakeSession(None))


def test_a_process_that_fails_says_why(tmp_path):
    from int8_processes import ProcessFailed, Task, build, profile, write_task

    task = tmp_path / "0.json"
    write_task(task, Task("a form", {"x": (1, 3)}, level=0, plugin=False), b"not a graph")
    with pytest.raises(ProcessFailed, match=r"exit status 1: (a form: the graph is not ONNX|TensorRT is)"):
        build(task, 60)
    with pytest.raises(ProcessFailed, match="not finished within 0 s"):
        profile(task, 0.01)
