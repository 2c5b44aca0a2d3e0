"""The sampler's graph samples as PyTorch does, and carries no cast at its door."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto

from sadtrt_core.sampling.engine import sampler_graph, sampler_job
from sadtrt_core.sampling.methods import SAMPLING_METHODS
from sadtrt_core.sampling.shapes import SamplingShape, Setting, renderer_grids, renderer_shapes, renderer_volume
from sadtrt_core.sampling.torch_forms import expanded, tiled

SHAPES = (
    SamplingShape("3 grids", 4, 7, 1, 3),
    SamplingShape("1 grid", 8, 6, 1, 1),
    SamplingShape("2 x 2 grids", 3, 5, 2, 4),
)
CPU = torch.device("cpu")


def _setting(shape: SamplingShape, tmp_path: object) -> Setting:
    return Setting(shape, torch.float32, CPU, tmp_path, 3)


def _expected(volume: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    repeats = grid.shape[0] // volume.shape[0]
    each = [
        torch.nn.functional.grid_sample(
            volume[i // repeats, None].double(), grid[i, None].double(), align_corners=False
        )
        for i in range(grid.shape[0])
    ]
    return torch.cat(each).float()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_method_of_a_cpu_samples_each_volume_with_its_own_grids(shape, tmp_path):
    setting = _setting(shape, tmp_path)
    volume, grid = renderer_volume(shape, torch.float32, CPU, 1), renderer_grids(shape, CPU, 1)
    assert tuple(volume.shape) == shape.volume_shape
    assert tuple(grid.shape) == shape.grid_shape
    outside = (grid.abs() > 1).any(dim=-1)
    assert outside.any()
    assert not outside.all()
    tried = 0
    for method in SAMPLING_METHODS.values():
        if method.applies(shape, setting.dtype) and method.absence(setting) is None:
            with method.open(setting) as launcher:
                samples = launcher(volume, grid)()
                torch.testing.assert_close(samples, _expected(volume, grid), atol=2e-5, rtol=0)
            tried += 1
    # Of several volumes there is no expanded view.
    assert tried == {1: 2, 2: 3, 3: 4}[shape.repeats]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_graphs_take_features_of_their_type_and_fp32_grids(dtype):
    features = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}[dtype]
    for sampler in ("plugin", "native"):
        graph = sampler_graph(SHAPES[0], dtype, sampler).graph
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        assert types == {"volume": features, "grid": TensorProto.FLOAT, "samples": features}
    assert [node.op_type for node in sampler_graph(SHAPES[0], dtype, "plugin").graph.node] == ["GridSample3D"]
    onnx.checker.check_model(sampler_graph(SHAPES[0], dtype, "native"), full_check=True)


def test_engines_of_unlike_samplers_have_names_and_graphs_of_their_own(tmp_path):
    jobs = [
        sampler_job(Setting(shape, dtype, CPU, tmp_path, 3), "native")
        for shape in SHAPES
        for dtype in (torch.float32, torch.float16)
    ]
    assert len({job.file_stem for job in jobs}) == len({job.graph for job in jobs}) == len(jobs)
    assert all(job.graph.read_bytes() for job in jobs)


def test_tiling_copies_and_expanding_does_not():
    volume = torch.arange(2 * 3 * 8.0).view(2, 3, 2, 2, 2)
    repeated = tiled(volume, 2)
    assert [torch.equal(repeated[i], volume[i // 2]) for i in range(4)] == [True] * 4
    one = volume[:1]
    assert torch.equal(expanded(one, 3), tiled(one, 3))
    assert expanded(one, 3).data_ptr() == one.data_ptr() != tiled(one, 3).data_ptr()


def test_a_batch_has_its_frames_samplers_at_once():
    assert [shape.name for shape in renderer_shapes(1)] == [
        "16 grids, 4 channels, 256 px",
        "1 grid, 32 channels, 256 px",
        "16 grids, 4 channels, 512 px",
        "1 grid, 32 channels, 512 px",
    ]
    motion, warp, *_ = renderer_shapes(4)
    assert (motion.name, warp.name) == ("4 x 16 grids, 4 channels, 256 px", "4 x 1 grid, 32 channels, 256 px")
    assert (motion.volume_shape, motion.grid_shape) == ((4, 4, 16, 64, 64), (64, 16, 64, 64, 3))
    assert (warp.volume_shape, warp.grid_shape) == ((4, 32, 16, 64, 64), (4, 16, 64, 64, 3))


def test_every_byte_is_counted_once():
    # 65,536 voxels of 4 halves; 16 x 65,536 points of 3 floats and 4 halves.
    assert SamplingShape("", 4, 64, 1, 16).bytes_moved(2) == 65536 * 8 + 16 * 65536 * (12 + 8)


def test_what_cannot_run_here_says_why(tmp_path):
    half = Setting(SHAPES[0], torch.float16, CPU, tmp_path, 3)
    reasons = {name: method.absence(half) for name, method in SAMPLING_METHODS.items()}
    assert all(reasons.values())
    assert "not on cpu" in reasons["kernel"]
    assert "not on cpu" in reasons["engine with the plugin"]
    assert "GPU" in reasons["PyTorch"]
