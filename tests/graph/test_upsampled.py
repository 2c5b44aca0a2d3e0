"""Convolutions of upsampled maps: the rewritten graph computes what PyTorch computes."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from sadtrt_core.graph.edit import constants_to_initializers
from sadtrt_core.graph.export import export_stage
from sadtrt_core.graph.typed import apply_precision
from sadtrt_core.graph.upsampled import convolve_before_upsampling, summed_kernel
from sadtrt_core.plan import Plan
from sadtrt_core.renderer.stages import STAGES


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_transposed_convolution_is_upsampling_and_convolution(factor):
    random = torch.Generator().manual_seed(factor)
    x = torch.randn(2, 5, 7, 6, generator=random, dtype=torch.float64)
    weights = torch.randn(4, 5, 3, 3, generator=random, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=factor, mode="nearest"), weights, padding=1)
    kernel = torch.from_numpy(summed_kernel(weights.numpy(), factor))
    found = F.conv_transpose2d(x, kernel, stride=factor, padding=1)
    assert kernel.shape == (5, 4, 2 + factor, 2 + factor)
    torch.testing.assert_close(found, expected)


def test_the_decoder_convolves_its_maps_before_they_are_upsampled(seeded_demo):
    model = export_stage(seeded_demo, STAGES["decode"])
    constants_to_initializers(model)
    random = np.random.default_rng(0)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    x = {"feature_map": random.standard_normal((1, *shape), dtype=np.float32)}
    (before,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    convolve_before_upsampling(model)
    (after,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    assert sorted(node.name for node in model.graph.node if node.op_type == "ConvTranspose") == [
        f"/decoder/{block}/{norm}/mlp_shared/mlp_shared.0/Conv"
        for block in ("up_0", "up_1")
        for norm in ("norm_0", "norm_1", "norm_s")
    ]
    # What no convolution of a map reads any more is not upsampled; the two others are of the picture's features.
    assert sum(node.op_type == "Resize" for node in model.graph.node) == 2
    assert np.abs(after - before).max() < 2e-5


@pytest.mark.parametrize(("base", "transposed"), [("float16", 6), ("bfloat16", 0)])
def test_bfloat16_keeps_its_upsampled_maps(tiny, base, transposed):
    # TensorRT for RTX refuses a transposed convolution of bfloat16 (tests/plugin/test_plugin_build.py builds both).
    precision = Plan("mine", base, "a test").precision
    typed = apply_precision(export_stage(tiny, STAGES["decode"]), precision, has_plugin=True)
    assert sum(node.op_type == "ConvTranspose" for node in typed.graph.node) == transposed
