"""The drop-in generator, called as SadTalker calls its own, computed by PyTorch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sadtrt_core.drop_in import TensorRTGenerator
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.workload import make_workload
from sadtrt_core.runners.pytorch import PyTorchRunner
from tests.sadtalker import OwnGenerator, animation_call, make_animation


@pytest.fixture(scope="module")
def call() -> dict[str, Any]:
    """Three frames of one source, as SadTalker's make_animation hands them over."""
    generator = torch.Generator().manual_seed(3)
    source = {"value": torch.rand((1, 15, 3), generator=generator) - 0.5}
    driving = {"value": torch.rand((3, 15, 3), generator=generator) - 0.5, "jacobian": None}
    return {
        "source_image": torch.rand((1, 3, 256, 256), generator=generator).expand(3, -1, -1, -1),
        "kp_source": {"value": source["value"].expand(3, -1, -1)},
        "kp_driving": driving,
    }


@pytest.fixture(scope="module")
def expected(tiny_256: Renderer, call: dict[str, Any]) -> Tensor:
    with torch.inference_mode():
        return tiny_256.generator(call["source_image"], call["kp_driving"]["value"], call["kp_source"]["value"])


def make(renderer: Renderer, cache: Path, **options: Any) -> TensorRTGenerator:
    settings = {"precision": "fp32", "grid_sample": "torch", "device": "cpu", "make_runner": PyTorchRunner, **options}
    return TensorRTGenerator(renderer=renderer, cache=cache, **settings)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_any_number_of_frames_in_the_generators_own_form(
    batch: int, tiny_256: Renderer, call: dict[str, Any], expected: Tensor, tmp_path: Path
) -> None:
    generator = make(tiny_256, tmp_path, batch=batch).eval()
    prediction = generator(call["source_image"], kp_source=call["kp_source"], kp_driving=call["kp_driving"])
    torch.testing.assert_close(prediction["prediction"], expected, atol=1e-4, rtol=1e-4)
    generator.close()


def test_half_input_and_plain_tensors_are_taken(
    tiny_256: Renderer, call: dict[str, Any], expected: Tensor, tmp_path: Path
) -> None:
    generator = make(tiny_256, tmp_path)
    prediction = generator(
        call["source_image"][:1].half(),
        kp_source=call["kp_source"]["value"][:1],
        kp_driving=call["kp_driving"]["value"][:1],
    )["prediction"]
    assert prediction.dtype == torch.float32
    torch.testing.assert_close(prediction, expected[:1], atol=0.05, rtol=0.05)


def test_one_frame_without_a_batch_axis_is_taken_as_recordings_are(
    tiny_256: Renderer, call: dict[str, Any], expected: Tensor, tmp_path: Path
) -> None:
    keypoints = {name: call[name]["value"][0] for name in ("kp_source", "kp_driving")}
    prediction = make(tiny_256, tmp_path)(call["source_image"][0], **keypoints)["prediction"]
    torch.testing.assert_close(prediction, expected[:1], atol=1e-4, rtol=1e-4)


def test_a_frame_outlives_the_next_call(tiny_256: Renderer, call: dict[str, Any], tmp_path: Path) -> None:
    generator = make(tiny_256, tmp_path)

    def frame(index: int) -> Tensor:
        one = slice(index, index + 1)
        keypoints = {name: {"value": call[name]["value"][one]} for name in ("kp_source", "kp_driving")}
        return generator(call["source_image"][one], **keypoints)["prediction"]

    first = frame(0)
    kept = first.clone()
    assert not torch.equal(frame(1), kept)
    assert torch.equal(first, kept)


def test_a_source_is_encoded_in_fp32_whatever_the_precision(
    tiny_256: Renderer, call: dict[str, Any], expected: Tensor, tmp_path: Path
) -> None:
    """Every frame of a clip shows what its source has lost, and only one pays for it."""
    made: dict[str, PyTorchRunner] = {}

    class Kept(PyTorchRunner):
        def activate(self) -> None:
            super().activate()
            made[self.job.stage.name] = self

    generator = make(tiny_256, tmp_path, precision="bf16", make_runner=Kept)
    assert {stage: runner.job.precision.name for stage, runner in made.items()} == {
        "appearance": "fp32",
        "frame": "bf16",
    }
    one = {name: call[name]["value"][:1] for name in ("kp_driving", "kp_source")}
    generator(call["source_image"][:1], **one)
    with torch.inference_mode():
        exact = tiny_256.generator.appearance(call["source_image"][:1])
    assert torch.equal(made["appearance"].fetch()["feature_3d"], exact)


def test_an_image_is_encoded_when_it_is_new_and_not_again(
    tiny_256: Renderer, call: dict[str, Any], expected: Tensor, tmp_path: Path
) -> None:
    encoded = []

    class Counting(PyTorchRunner):
        def execute(self) -> None:
            encoded.append(self.job.stage.name)
            super().execute()

    generator = make(tiny_256, tmp_path, batch=2, make_runner=Counting)
    keypoints = {name: call[name] for name in ("kp_source", "kp_driving")}
    generator(call["source_image"], **keypoints)
    generator(call["source_image"], **keypoints)
    assert encoded.count("appearance") == 1
    # Another image at one place of the batch, changed where the caller's tensor lies.
    others = call["source_image"].clone()
    others[1, 0, 7, 9] = 1 - others[1, 0, 7, 9]
    mixed = generator(others, **keypoints)["prediction"]
    assert encoded.count("appearance") == 2
    with torch.inference_mode():
        wanted = tiny_256.generator(others, call["kp_driving"]["value"], call["kp_source"]["value"])
    torch.testing.assert_close(mixed, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.equal(mixed[1], expected[1])
    again = generator(call["source_image"], **keypoints)["prediction"]
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kp_driving": {"value": torch.zeros(3, 15, 3), "jacobian": torch.zeros(3, 15, 3, 3)}}, "jacobian"),
        ({"kp_source": {"jacobian": None}}, "kp_source has no entry `value`"),
        ({"kp_source": {"value": torch.zeros(2, 15, 3)}}, "kp_source has 2 frames where source_image has 3"),
        ({"source_image": torch.zeros(3, 3, 512, 512)}, "source_image.*512.*256.*give TensorRTGenerator size=512"),
        ({"source_image": torch.zeros(3, 3, 300, 512)}, "source_image.*300.*256.*scale it to 256 pixels a side"),
        ({"source_image": torch.zeros(3, 3, 256, 256).byte()}, "source_image has type uint8: expected float32"),
        ({"source_image": torch.full((3, 3, 256, 256), 200.0)}, r"looks like 0\.\.255: divide by 255"),
        ({"source_image": torch.full((3, 3, 256, 256), torch.nan)}, "source_image has values that are not finite"),
        ({"kp_source": torch.full((3, 15, 3), torch.inf)}, "kp_source has values that are not finite"),
        ({"source_image": None}, "source_image is a NoneType"),
        ({"kp_driving": None}, "kp_driving is a NoneType"),
        ({"kp_driving": {"value": [0.0]}}, "kp_driving is a list"),
        (
            {"kp_driving": {"value": torch.full((3, 15, 3), 128.0)}},
            "kp_driving has keypoints .* which look like pixels",
        ),
        ({"kp_source": torch.zeros(3, 15, 3).to_sparse()}, "kp_source .*sparse.*expected a dense one"),
        (
            {"source_image": torch.zeros(3, 1, 256, 256)},
            r"source_image has shape \(3, 1, 256, 256\): expected \(N, 3, 2",
        ),
        (
            {"source_image": torch.zeros(0, 3, 256, 256), "kp_driving": torch.zeros(0, 15, 3)},
            "source_image .*which holds nothing",
        ),
        ({"kp_driving": {"value": torch.zeros(3, 10, 3)}}, r"kp_driving has shape \(3, 10, 3\): expected \(N, 15, 3\)"),
    ],
)
def test_bad_calls_are_refused_in_a_sentence(
    change: dict[str, Any], message: str, tiny_256: Renderer, call: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny_256, tmp_path)(**{**call, **change})


def test_weights_come_from_one_place(tiny_256: Renderer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a checkpoint or a renderer"):
        TensorRTGenerator()
    with pytest.raises(ValueError, match="size=512 was given with a renderer for 256 pixels"):
        TensorRTGenerator(renderer=tiny_256, size=512)
    with pytest.raises(ValueError, match="give a checkpoint or a renderer"):
        TensorRTGenerator(tmp_path / "weights.safetensors", renderer=tiny_256)


def test_without_a_gpu_the_reason_is_given_at_once(tiny_256: Renderer, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="TensorRT runs on an NVIDIA GPU, not on cpu"):
        TensorRTGenerator(renderer=tiny_256, device="cpu", cache=tmp_path, grid_sample="native")


def test_sadtalkers_render_loop_takes_it(tiny_256: Renderer, tmp_path: Path) -> None:
    call = animation_call(tiny_256, make_workload(tiny_256.config, 6), batch=2, device=torch.device("cpu"))
    # Noise for weights moves keypoints out of every picture.
    mapping = call["mapping"]
    call["mapping"] = lambda semantics: {name: 0.02 * head for name, head in mapping(semantics).items()}
    own = make_animation(**call, generator=OwnGenerator(tiny_256))
    ours = make_animation(**call, generator=make(tiny_256, tmp_path, batch=2).eval())
    assert own.shape == (2, 3, 3, 256, 256)
    assert not torch.equal(own[0, 0], own[1, 2]), "frames that are all alike would show nothing"
    torch.testing.assert_close(ours, own, atol=1e-4, rtol=1e-4)
