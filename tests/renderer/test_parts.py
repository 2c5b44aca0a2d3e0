"""What the renderer promises beyond the goldens: sizes, batches, spectral norm."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sadtrt_core.renderer.config import RendererConfig, demo_config, full_config
from sadtrt_core.renderer.layers import SpectralConv2d
from sadtrt_core.renderer.renderer import build_networks, seeded_renderer
from sadtrt_core.renderer.stages import GENERATOR_PARTS, STAGES, call_stage, stage_module


@pytest.mark.parametrize("size", [256, 512])
def test_every_stage_keeps_the_shapes_of_its_table_row(tiny, size):
    renderer = seeded_renderer(dataclasses.replace(tiny.config, image_size=size))
    for stage in STAGES.values():
        if stage.module is None:
            continue
        inputs = tuple(torch.rand(spec.batched(2)) for spec in stage.inputs(renderer.config))
        outputs = call_stage(stage_module(stage, renderer), inputs)
        assert [tuple(t.shape) for t in outputs] == [s.batched(2) for s in stage.outputs(renderer.config)]


def test_the_four_parts_are_the_generator(seeded_demo):
    image, driving, source = torch.rand(1, 3, 256, 256), torch.rand(1, 15, 3) - 0.5, torch.rand(1, 15, 3) - 0.5
    known = {"source_image": image, "kp_driving": driving, "kp_source": source}
    for name in GENERATOR_PARTS:
        stage = STAGES[name]
        outputs = call_stage(
            stage_module(stage, seeded_demo), tuple(known[s.name] for s in stage.inputs(seeded_demo.config))
        )
        known.update(zip((s.name for s in stage.outputs(seeded_demo.config)), outputs, strict=True))
    assert torch.equal(known["prediction"], seeded_demo.generator(image, driving, source))


def test_a_batch_gives_what_its_frames_give_alone(seeded_demo):
    image, driving, source = torch.rand(2, 3, 256, 256), torch.rand(2, 15, 3) - 0.5, torch.rand(2, 15, 3) - 0.5
    motion = seeded_demo.generator.dense_motion_network
    volume = seeded_demo.generator.appearance(image)
    together = motion(volume, driving, source)
    alone = [motion(volume[i : i + 1], driving[i : i + 1], source[i : i + 1]) for i in range(2)]
    for index, whole in enumerate(together):
        torch.testing.assert_close(whole, torch.cat([part[index] for part in alone]), atol=2e-5, rtol=1e-4)


def test_folding_divides_the_spectral_norm_out():
    layer = SpectralConv2d(4, 6, 3).train()
    image = torch.randn(1, 4, 5, 5)
    for _ in range(200):
        layer(image)
    layer.eval()
    folded = layer.folded()
    assert torch.allclose(folded(image), layer(image), atol=1e-5)
    assert torch.linalg.matrix_norm(folded.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=1e-3)


def test_full_size_has_the_published_widths_and_the_demo_fits_a_laptop():
    with torch.device("meta"):
        full, demo = build_networks(full_config())["generator"], build_networks(demo_config())["generator"]
    count = lambda network: sum(p.numel() for p in network.parameters())  # noqa: E731
    assert round(count(full) / 1e6) == 101
    assert count(demo) < 2e6


def test_other_image_sizes_are_refused():
    with pytest.raises(ValueError, match=r"image size 300 is not supported: expected one of \(256, 512\) pixels"):
        RendererConfig(image_size=300)
