"""Typed graphs on ONNX Runtime against PyTorch, stage by stage, precision by precision, sampler by sampler."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sadtrt_core.graph import export
from sadtrt_core.graph.edit import FLOAT_TYPES, element_types
from sadtrt_core.graph.export import export_stage, typed_graph, typed_graph_file
from sadtrt_core.graph.grid_sample import resolve_grid_sample
from sadtrt_core.graph.instance_norm import decompose_instance_norm
from sadtrt_core.graph.rounding import explicit_rounding
from sadtrt_core.graph.typed import apply_precision, coordinate_slice, picture_slice
from sadtrt_core.precision import PRECISIONS, Precision
from sadtrt_core.renderer.sampling import NODE_TYPE, sample_in_half, sample_volume
from sadtrt_core.renderer.stages import GRAPH_STAGES, STAGES, call_stage, stage_module


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        explicit_rounding(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def random_inputs(stage, config, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Keypoints, deformations and pictures all live within -1..1; a few samples fall outside the volume.
    return {s.name: torch.rand(s.batched(batch), generator=generator) * 2.1 - 1.05 for s in stage.inputs(config)}


def run_both(renderer, stage, model, batch):
    inputs = random_inputs(stage, renderer.config, batch)
    expected = call_stage(stage_module(stage, renderer), tuple(inputs.values()))
    actual = session(model).run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return expected, [torch.from_numpy(value) for value in actual]


@pytest.mark.parametrize("grid_sample", ["native", "builtin"])
@pytest.mark.parametrize("name", GRAPH_STAGES)
def test_fp32_graph_gives_what_pytorch_gives(tiny, cache, name, grid_sample):
    stage = STAGES[name]
    model = onnx.load_from_string(typed_graph(tiny, stage, PRECISIONS["fp32"], grid_sample, cache))
    onnx.checker.check_model(model, full_check=True)
    # Another batch than the exporter saw: the axis must be dynamic.
    expected, actual = run_both(tiny, stage, model, batch=3)
    for old, new in zip(expected, actual, strict=True):
        assert new.shape == old.shape
        # Seeded weights amplify rounding through the whole generator; single stages agree to 2e-5.
        assert (new - old).abs().max() < (1e-3 if name in ("frame", "generator") else 2e-5)


@pytest.mark.parametrize("precision", ["fp16", "fp16-mixed", "bf16"])
@pytest.mark.parametrize("name", [n for n in GRAPH_STAGES if n not in ("frame", "generator")])
def test_low_precision_graph_stays_near_and_keeps_fp32_at_its_doors(tiny, cache, name, precision):
    stage = STAGES[name]
    model = onnx.load_from_string(typed_graph(tiny, stage, PRECISIONS[precision], "native", cache))
    # ONNX admits bfloat16 convolutions only from opset 22; TensorRT and ONNX Runtime take them in any.
    onnx.checker.check_model(model, full_check=precision != "bf16")
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    expected, actual = run_both(tiny, stage, model, batch=1)
    steps = 2.0**-8 if precision == "bf16" else 2.0**-11
    for old, new in zip(expected, actual, strict=True):
        error = (new - old).abs().max() / old.abs().max()
        assert 0 < error < 60 * steps


def test_mixed_precision_keeps_the_coordinates_and_nothing_else(tiny):
    graph = export_stage(tiny, STAGES["generator"])
    kept = coordinate_slice(graph)
    by_name = {node.name: node for node in graph.graph.node}
    operators = {by_name[name].op_type for name in kept}
    assert {"Softmax", "ReduceSum", "Mul", "Sub", "Where"} <= operators
    assert not operators & {"Conv", NODE_TYPE, "InstanceNormalization"}
    assert not any("decoder" in name for name in kept)
    typed = apply_precision(graph, PRECISIONS["fp16-mixed"])
    types = element_types(typed)
    for node in typed.graph.node:
        if node.op_type == NODE_TYPE:
            assert [types[name] for name in node.input] == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT]
        if node.op_type == "Conv":
            kind = onnx.TensorProto.FLOAT if "conv_img" in node.name else onnx.TensorProto.FLOAT16
            assert {types[name] for name in node.input} == {kind}
    halves = apply_precision(graph, PRECISIONS["fp16"])
    types = element_types(halves)
    grids = [types[node.input[1]] for node in halves.graph.node if node.op_type == NODE_TYPE]
    assert grids == [onnx.TensorProto.FLOAT16] * 2


@pytest.mark.parametrize("stage", ["decode", "generator"])
def test_mixed_precision_keeps_the_last_convolution_and_sigmoid_of_the_picture(tiny, stage):
    graph = export_stage(tiny, STAGES[stage])
    assert picture_slice(graph) == {"/decoder/conv_img/Conv", "/decoder/Sigmoid"}
    for precision, kind in (("fp16-mixed", onnx.TensorProto.FLOAT), ("fp16", onnx.TensorProto.FLOAT16)):
        typed = apply_precision(graph, PRECISIONS[precision])
        types = element_types(typed)
        read = {node.name: types[node.input[0]] for node in typed.graph.node}
        assert read["/decoder/Sigmoid"] == kind
        assert read["/decoder/conv_img/Conv"] == kind
        assert read["/decoder/fc/Conv"] == onnx.TensorProto.FLOAT16


def test_a_stage_without_a_picture_has_none_to_keep(tiny):
    assert picture_slice(export_stage(tiny, STAGES["motion"])) == frozenset()


def test_nodes_named_by_a_plan_stay_fp32(tiny):
    plan = Precision("plan", "float16", "a test", keep_nodes=("/decoder/G_middle_0/*",))
    typed = apply_precision(export_stage(tiny, STAGES["decode"]), plan)
    types = element_types(typed)
    convolutions = {node.name: types[node.input[1]] for node in typed.graph.node if node.op_type == "Conv"}
    inside = {kind for name, kind in convolutions.items() if name.startswith("/decoder/G_middle_0/")}
    outside = {kind for name, kind in convolutions.items() if not name.startswith("/decoder/G_middle_0/")}
    assert inside == {onnx.TensorProto.FLOAT}
    assert outside == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("name", GRAPH_STAGES)
@pytest.mark.parametrize("precision", ["fp16", "fp16-mixed", "bf16"])
def test_operands_meet_in_one_type(tiny, cache, name, precision):
    """What a strongly typed builder demands: no operator mixes float types."""
    model = onnx.load_from_string(typed_graph(tiny, STAGES[name], PRECISIONS[precision], "native", cache))
    types = element_types(model)
    for node in model.graph.node:
        if node.op_type == "Resize":
            continue
        kinds = {types[i] for i in node.input if types.get(i) in FLOAT_TYPES}
        assert len(kinds) <= 1, f"{node.name} mixes {kinds}"


def test_plugin_graph_samples_without_repeating_the_volume_and_with_fp32_coordinates(tiny, cache):
    # In fp16-mixed dense motion has a node of its own.
    for precision, count in (("fp32", 2), ("fp16", 2), ("fp16-mixed", 1)):
        model = onnx.load_from_string(typed_graph(tiny, STAGES["generator"], PRECISIONS[precision], "plugin", cache))
        types = element_types(model)
        samplers = [node for node in model.graph.node if node.op_type == NODE_TYPE]
        assert len(samplers) == count
        for node in samplers:
            assert types[node.input[1]] == onnx.TensorProto.FLOAT
            assert {item.name for item in node.attribute} == {
                "interpolation",
                "padding",
                "align_corners",
                "plugin_version",
            }
        assert not {"Tile", "Expand"} & {node.op_type for node in model.graph.node}
        # A concatenation of one tensor with itself would be a repeat by another name.
        assert all(len(set(node.input)) == len(node.input) for node in model.graph.node if node.op_type == "Concat")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_instance_norm_as_arithmetic_gives_the_same_frames(tiny, cache, precision):
    stage = STAGES["decode"]
    graph = typed_graph(tiny, stage, PRECISIONS[precision], "native", cache)
    model, plain = onnx.load_from_string(graph), onnx.load_from_string(graph)
    decompose_instance_norm(plain)
    onnx.checker.check_model(plain, full_check=True)
    assert "InstanceNormalization" not in {node.op_type for node in plain.graph.node}
    _, old = run_both(tiny, stage, model, batch=2)
    _, new = run_both(tiny, stage, plain, batch=2)
    assert (old[0] - new[0]).abs().max() < (2e-5 if precision == "fp32" else 4e-3)


class _Sampler(torch.nn.Module):
    def forward(self, volume, grid):
        return sample_volume(volume, grid)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("grid_sample", ["native", "builtin"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_sampler_agrees_where_samples_fall_outside(repeats, grid_sample):
    generator = torch.Generator().manual_seed(1)
    volume = torch.randn((2, 3, 4, 5, 6), generator=generator)
    grid = torch.rand((2 * repeats, 3, 4, 7, 3), generator=generator) * 3 - 1.5
    grid[0, 0, 0, :2] = torch.tensor([[1.0, -1.0, 1.0], [1e9, -1e9, 0.0]])
    buffer = io.BytesIO()
    torch.onnx.export(
        _Sampler(),
        (volume, grid),
        buffer,
        input_names=["volume", "grid"],
        output_names=["y"],
        opset_version=20 if grid_sample == "builtin" else 17,
        dynamo=False,
    )
    model = resolve_grid_sample(onnx.load_from_string(buffer.getvalue()), grid_sample)
    (actual,) = session(model).run(None, {"volume": volume.numpy(), "grid": grid.numpy()})
    expected = sample_volume(volume, grid)
    assert np.abs(actual - expected.numpy()).max() < 2e-6
    assert expected.abs().max() > 0.5


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("half", [False, True])
def test_a_native_sampler_has_pytorchs_float_arithmetic_or_where_it_says_so_that_of_half(half):
    generator = torch.Generator().manual_seed(4)
    volume = torch.randn((1, 3, 4, 16, 64), generator=generator)
    grid = (torch.rand((3, 4, 5, 7, 3), generator=generator) * 2.2 - 1.1).half().float()
    buffer = io.BytesIO()
    names = {"input_names": ["volume", "grid"], "output_names": ["y"]}
    torch.onnx.export(_Sampler(), (volume, grid), buffer, **names, opset_version=17, dynamo=False)
    model = onnx.load_from_string(buffer.getvalue())
    if half:
        for node in model.graph.node:
            if node.op_type == NODE_TYPE:
                node.attribute.append(onnx.helper.make_attribute("half_coordinates", 1))
        with pytest.raises(ValueError, match="an arithmetic of its own"):
            resolve_grid_sample(model, "builtin")
    model = resolve_grid_sample(model, "native")
    (actual,) = session(model).run(None, {"volume": volume.numpy(), "grid": grid.numpy()})
    in_float, in_half = sample_volume(volume, grid).numpy(), sample_in_half(volume, grid).numpy()
    assert np.abs(actual - (in_half if half else in_float)).max() < 2e-6
    assert np.abs(in_half - in_float).max() > 0.01


def test_rounding_between_half_operators_is_kept():
    """ONNX Runtime drops the casts it makes itself: (0.3 + 2048) - 2048 would come out as 0.3, half gives 0."""
    add = [
        onnx.helper.make_node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT16),
        onnx.helper.make_node("Add", ["h", "big"], ["sum"], name="add"),
        onnx.helper.make_node("Sub", ["sum", "big"], ["rest"], name="sub"),
        onnx.helper.make_node("Cast", ["rest"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    graph = onnx.helper.make_graph(
        add,
        "rounding",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])],
        [onnx.numpy_helper.from_array(np.float16([2048.0]), "big")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    x = np.float32([0.3, 1.7, 3.1])
    (actual,) = session(model).run(None, {"x": x})
    half = (x.astype(np.float16) + np.float16(2048)) - np.float16(2048)
    assert actual.tolist() == half.astype(np.float32).tolist() == [0.0, 2.0, 4.0]


def test_an_unknown_sampler_is_refused(tiny):
    graph = export_stage(tiny, STAGES["warp"])
    with pytest.raises(ValueError, match="grid sample 'cubic' is not for graphs: expected one of plugin, native"):
        resolve_grid_sample(graph, "cubic")
    for node in graph.graph.node:
        if node.op_type == NODE_TYPE:
            next(item for item in node.attribute if item.name == "padding").i = 1
    with pytest.raises(ValueError, match="only trilinear sampling with zeros outside"):
        resolve_grid_sample(graph, "native")


def test_the_clip_has_no_graph(tiny, cache):
    with pytest.raises(ValueError, match="'clip' has no module of its own"):
        typed_graph(tiny, STAGES["clip"], PRECISIONS["fp32"], "native", cache)


def test_a_graph_that_was_changed_in_the_cache_is_exported_again(tiny, tmp_path):
    stage = STAGES["mapping"]
    first = typed_graph(tiny, stage, PRECISIONS["fp32"], "native", tmp_path)
    (exported,) = (tmp_path / "graphs").glob("mapping-*.onnx")
    (typed,) = (tmp_path / "graphs").glob("typed-mapping-*.onnx")
    changed = onnx.load(exported)
    weight = next(tensor for tensor in changed.graph.initializer if len(tensor.raw_data) > 1024)
    weight.raw_data = bytes(len(weight.raw_data))
    for content in (changed.SerializeToString(), b"no graph"):
        exported.write_bytes(content)
        # One that is whole needs no export; one that is not is made of an export that is.
        assert typed_graph(tiny, stage, PRECISIONS["fp32"], "native", tmp_path) == first
        typed.write_bytes(content)
        assert typed_graph(tiny, stage, PRECISIONS["fp32"], "native", tmp_path) == first
        assert typed.read_bytes() == first
        assert exported.read_bytes() != content


def test_a_typed_graph_is_kept_for_just_what_it_is_of(tiny, tmp_path, monkeypatch):
    given = (tiny, STAGES["mapping"])
    made = {name: typed_graph(*given, PRECISIONS[name], "native", tmp_path) for name in ("fp32", "fp16", "bf16")}
    assert len(set(made.values())) == 3
    ways = [typed_graph(tiny, STAGES["warp"], PRECISIONS["fp32"], way, tmp_path) for way in ("native", "builtin")]
    assert ways[0] != ways[1]
    renamed = replace(PRECISIONS["fp16"], name="other", why="another name of the same arithmetic")
    monkeypatch.setattr(export, "apply_precision", None)  # Nothing is typed again.
    monkeypatch.setattr(export, "code_digest", None)  # Nor is the code looked at that others may edit meanwhile.
    assert {name: typed_graph(*given, PRECISIONS[name], "native", tmp_path) for name in made} == made
    assert typed_graph(*given, renamed, "native", tmp_path) == made["fp16"]
    assert typed_graph_file(*given, renamed, "native", tmp_path).read_bytes() == made["fp16"]
