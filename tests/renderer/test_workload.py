"""What is rendered: the built-in workload, a user's picture, recorded inputs, and what is refused of them."""

from __future__ import annotations

import dataclasses
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.config import demo_config, full_config
from sadtrt_core.renderer.keypoints import pose_of, rotation_matrix
from sadtrt_core.renderer.picture import load_picture
from sadtrt_core.renderer.workload import make_workload, recorded_workload

CONFIG = demo_config()


@pytest.fixture
def workload():
    return make_workload(CONFIG, 32)


def test_the_default_workload_has_every_input_in_its_shape_and_range(workload):
    assert workload.source_image.shape == (1, 3, 256, 256)
    assert workload.kp_canonical.shape == workload.kp_source.shape == (1, 15, 3)
    assert workload.kp_driving.shape == (32, 15, 3)
    assert workload.source_coefficients.shape == (1, 70, 27)
    assert workload.driving_coefficients.shape == (32, 70, 27)
    tensors = [value for value in vars(workload).values() if isinstance(value, torch.Tensor)]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in tensors)
    assert workload.source_image.min() >= 0
    assert workload.source_image.max() <= 1
    assert workload.kp_driving.abs().max() < 1


def test_every_frame_moves_and_no_two_are_alike(workload):
    from_source = (workload.kp_driving - workload.kp_source).abs().amax(dim=(1, 2))
    assert from_source.min() > 0.005
    assert (workload.kp_driving[1:] - workload.kp_driving[:-1]).abs().amax(dim=(1, 2)).min() > 1e-4
    yaw, pitch, roll, _, expression = pose_of(workload.driving_coefficients)
    assert 10 < yaw.rad2deg().abs().max() < 20
    assert 4 < pitch.rad2deg().abs().max() < 12
    assert 3 < roll.rad2deg().abs().max() < 10
    assert 0.001 < expression.abs().max() < 0.1


def test_keypoints_are_what_the_coefficients_say(workload):
    *angles, translation, expression = pose_of(workload.driving_coefficients)
    expected = torch.einsum("tij,kj->tki", rotation_matrix(*angles), workload.kp_canonical[0])
    expected = expected + expression.reshape(-1, 15, 3)
    expected[:, :, 1] += translation[:, 1:2]
    assert torch.allclose(workload.kp_driving, expected, atol=1e-6)


def test_the_digest_says_whether_the_same_work_was_done(workload):
    assert workload.digest == make_workload(CONFIG, 32).digest
    assert workload.digest != make_workload(CONFIG, 31).digest
    moved = dataclasses.replace(workload, kp_source=workload.kp_source + 1e-6)
    assert moved.digest != workload.digest


def test_full_size_and_512_pixels_and_73_coefficients():
    assert make_workload(full_config(512), 2).source_image.shape == (1, 3, 512, 512)
    wide = dataclasses.replace(CONFIG, coefficients=73)
    assert make_workload(wide, 2).driving_coefficients.shape == (2, 73, 27)


def test_no_frames_are_refused():
    with pytest.raises(UserError, match="--frames 1"):
        make_workload(CONFIG, 0)


def test_a_picture_is_cropped_to_its_middle_square(tmp_path):
    pixels = np.zeros((100, 300, 3), dtype=np.uint8)
    pixels[:, 100:200] = (255, 0, 0)
    pixels[:, :100] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    picture = load_picture(tmp_path / "wide.png", 256)
    assert picture.shape == (3, 256, 256)
    inside = picture[:, :, 8:-8]  # Lanczos looks a little over the edge of the crop.
    assert inside[0].min() > 0.99
    assert inside[2].max() < 0.01


def test_a_picture_is_turned_upright_as_its_exif_tag_says(tmp_path):
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: rotate a quarter clockwise to look at it.
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    picture = load_picture(tmp_path / "turned.png", 256)[0]
    assert picture[:, 192:].mean() > 0.99
    assert picture[:, :64].mean() < 0.01


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pictures_of_any_mode_are_taken(tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.new("L" if mode == "P" else mode, (40, 40), 0).convert("P" if mode == "P" else None).save(path)
    workload = make_workload(CONFIG, 2, source_image=path)
    assert workload.source_image.shape == (1, 3, 256, 256)
    assert workload.name == path.name


def test_files_that_are_no_picture_are_refused(tmp_path):
    (tmp_path / "words.jpg").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "broken.png").write_bytes(content[:40] + b"\xff" * 40 + content[80:])
    for path in (
        tmp_path / "words.jpg",
        tmp_path / "cut.png",
        tmp_path / "broken.png",
        tmp_path / "absent.png",
        tmp_path,
    ):
        with pytest.raises(UserError) as caught:
            load_picture(path, 256)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    Image.new("1", (8000, 5001)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"large\.png has 8000 x 5001 pixels: scale it down to 40 million at most"):
        load_picture(tmp_path / "large.png", 256)
    Image.new("1", (1000, 1000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"bomb\.png"):
        load_picture(tmp_path / "bomb.png", 256)


@pytest.fixture
def samples(tmp_path):
    """A folder of recorded inputs, as the guide saves them; a test may overwrite one."""
    torch.manual_seed(0)
    torch.save(torch.rand(1, 3, 256, 256), tmp_path / "source_image.pt")
    torch.save({"value": torch.rand(1, 15, 3)}, tmp_path / "kp_source.pt")
    torch.save({"value": torch.rand(5, 15, 3)}, tmp_path / "kp_driving.pt")
    return tmp_path


def test_recorded_inputs_are_rendered_as_they_are(samples):
    workload = make_workload(CONFIG, 32, samples=samples)
    assert torch.equal(workload.source_image, torch.load(samples / "source_image.pt"))
    assert torch.equal(workload.kp_driving, torch.load(samples / "kp_driving.pt")["value"])
    assert torch.equal(workload.kp_source, torch.load(samples / "kp_source.pt")["value"])
    assert workload.driving_coefficients.shape == (5, 70, 27)
    assert workload.name == samples.name


def test_one_recorded_frame_without_a_batch_axis_is_taken_and_half_is_converted(samples):
    torch.save(torch.rand(15, 3).half(), samples / "kp_driving.pt")
    torch.save(torch.rand(3, 256, 256), samples / "source_image.pt")
    workload = recorded_workload(samples, CONFIG)
    assert workload.kp_driving.shape == (1, 15, 3)
    assert workload.kp_driving.dtype == torch.float32
    assert workload.source_image.shape == (1, 3, 256, 256)


def refusal(samples):
    with pytest.raises(UserError) as caught:
        recorded_workload(samples, CONFIG)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kp_driving.pt", torch.rand(5, 10, 2), "(5, 10, 2)"),
        ("kp_driving.pt", torch.rand(2, 5, 15, 3), "(2, 5, 15, 3)"),
        ("kp_driving.pt", torch.rand(0, 15, 3), "(0, 15, 3)"),
        ("source_image.pt", torch.rand(1, 3, 128, 128), "(1, 3, 128, 128)"),
        ("kp_source.pt", {"keypoints": torch.rand(1, 15, 3)}, "`value`"),
        ("kp_source.pt", {"value": torch.rand(1, 15, 3), "jacobian": torch.eye(3)}, "jacobian"),
        ("kp_source.pt", [1, 2], "list"),
        ("kp_source.pt", torch.zeros(1, 15, 3, device="meta"), "dense"),
        ("kp_source.pt", torch.eye(3).to_sparse(), "dense"),
        ("kp_source.pt", torch.full((1, 15, 3), float("nan")), "finite"),
        ("kp_source.pt", torch.zeros(1, 15, 3, dtype=torch.int64), "int64"),
    ],
)
def test_recorded_inputs_of_another_kind_are_refused(samples, name, value, said):
    torch.save(value, samples / name)
    sentence = refusal(samples)
    assert name in sentence
    assert said in sentence


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("source_image.pt", torch.rand(1, 3, 256, 256) * 2 - 1, "-1..1: add 1 and halve"),
        ("source_image.pt", torch.rand(1, 3, 256, 256) * 255, "0..255: divide by 255"),
        ("prediction.pt", torch.rand(5, 3, 256, 256) * 255, "0..255: divide by 255"),
        ("source_image.pt", torch.rand(1, 3, 512, 512), "--size 512"),
        ("kp_driving.pt", torch.rand(5, 15, 3) * 256, "look like pixels"),
        ("kp_source.pt", {"value": torch.full((1, 15, 3), -2.1)}, "look like pixels"),
        ("kp_driving.pt", torch.full((5, 15, 3), 1e300, dtype=torch.float64), "look like pixels"),
        ("kp_source.pt", torch.rand(2, 15, 3), "2 rows that differ"),
        ("source_image.pt", torch.rand(2, 3, 256, 256), "2 rows that differ"),
        ("kp_driving.pt", torch.zeros(1, 15, 3).expand(1 << 30, 15, 3), "far more values than it holds"),
        ("kp_driving.pt", torch.zeros(2001, 15, 3), "holds 2001 frames: give --frames 2000 or less of them"),
        ("kp_driving.pt", torch.zeros(5, 15, 3).to(torch.float8_e5m2), "float8_e5m2"),
        ("kp_driving.pt", torch.nested.nested_tensor([torch.zeros(15, 3)]), "nested"),
        ("prediction.pt", torch.rand(4, 3, 256, 256), "4 frames where kp_driving.pt has 5"),
    ],
)
def test_recordings_that_cannot_be_what_they_are_called_are_refused(samples, name, value, said):
    torch.save(value, samples / name)
    sentence = refusal(samples)
    assert name in sentence
    assert said in sentence


def test_rows_of_a_batch_that_repeat_their_source_are_one_source(samples):
    picture = torch.rand(1, 3, 256, 256)
    torch.save(picture.expand(2, -1, -1, -1), samples / "source_image.pt")
    torch.save({"value": torch.full((2, 15, 3), 0.5), "jacobian": None}, samples / "kp_source.pt")
    workload = recorded_workload(samples, CONFIG)
    assert torch.equal(workload.source_image, picture)
    assert workload.kp_source.shape == (1, 15, 3)


def test_the_first_of_the_recorded_frames_are_taken(samples):
    predicted = torch.rand(5, 3, 256, 256)
    torch.save(predicted, samples / "prediction.pt")
    recorded = torch.load(samples / "kp_driving.pt")["value"]
    everything = make_workload(CONFIG, None, samples=samples)
    assert torch.equal(everything.kp_driving, recorded)
    first = make_workload(CONFIG, 2, samples=samples)
    assert torch.equal(first.kp_driving, recorded[:2])
    assert torch.equal(first.recorded_frames, predicted[:2])
    assert first.driving_coefficients.shape == (2, 70, 27)
    torch.save(torch.zeros(2001, 15, 3), samples / "kp_driving.pt")
    (samples / "prediction.pt").unlink()
    assert make_workload(CONFIG, 2000, samples=samples).kp_driving.shape == (2000, 15, 3)


def test_the_recorded_frames_are_no_part_of_the_work(samples):
    before = recorded_workload(samples, CONFIG).digest
    torch.save(torch.rand(5, 3, 256, 256), samples / "prediction.pt")
    assert recorded_workload(samples, CONFIG).digest == before


def test_a_recording_that_is_no_file_is_one_sentence(samples):
    (samples / "kp_source.pt").unlink()
    os.mkfifo(samples / "kp_source.pt")
    assert "no plain file" in refusal(samples)
    (samples / "kp_source.pt").unlink()
    (samples / "kp_source.pt").mkdir()
    assert "is a folder" in refusal(samples)


class WritesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_recorded_input_that_would_run_code_is_refused_and_runs_none(samples, how):
    content = {"value": WritesAFile(samples / "made")}
    if how == "torch":
        torch.save(content, samples / "kp_source.pt")
    else:
        (samples / "kp_source.pt").write_bytes(pickle.dumps(content, protocol=2))
    assert "run code" in refusal(samples)
    assert not (samples / "made").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"some words", b"\x80\x02}"])
def test_damaged_recorded_inputs_are_refused(samples, content):
    (samples / "kp_source.pt").write_bytes(content)
    assert "kp_source.pt" in refusal(samples)


def test_missing_recorded_inputs_are_refused(samples):
    (samples / "kp_driving.pt").unlink()
    assert "kp_driving.pt is missing" in refusal(samples)
