"""Fitting stand-in weights: a few steps help, pairs are what they say, and stored weights come back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from reports import Kept
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.errors import UserError
from sadtrt_core.renderer import standin
from sadtrt_core.renderer.config import RendererConfig, demo_config
from sadtrt_core.renderer.fit import FitPlan, Fitted, PairMaker, _settle_batch_norms, fit, random_coefficients
from sadtrt_core.renderer.keypoints import canonical_keypoints, pose_of
from sadtrt_core.renderer.renderer import NETWORKS, build_networks, seeded_state
from sadtrt_core.renderer.standin import choose_weights, fit_standin, fitted_file, load_standin, save_standin
from sadtrt_core.renderer.workload import portrait, training_pictures

CPU = torch.device("cpu")


@pytest.fixture
def gradients(monkeypatch):
    """Fitting as it goes on outside of tests, but for batches that make figures and statistics more exact."""
    for name in ("HELD_OUT_BATCHES", "SETTLING_BATCHES"):
        monkeypatch.setattr(f"sadtrt_core.renderer.fit.{name}", 1)
    with torch.inference_mode(False), torch.enable_grad():
        yield


@pytest.fixture
def small(tiny):
    """Small pictures and networks, but a depth that the backward pass of a kernel of seven takes."""
    return dataclasses.replace(tiny.config, feature_depth=demo_config().feature_depth)


@pytest.fixture
def quick(small, gradients, monkeypatch):
    """Fits of small pictures, kept as weights for those of an offered size: the networks take any."""
    told = RendererConfig(**vars(small) | {"image_size": 256})
    for name in ("demo_config", "full_config"):
        monkeypatch.setattr(standin, name, lambda size: told)
    monkeypatch.setattr(standin, "fit", lambda config, *rest: fit(small, *rest))


@pytest.fixture(scope="module")
def seeded_states():
    return {name: seeded_state(module.state_dict()) for name, module in build_networks(demo_config()).items()}


@pytest.fixture
def pairs():
    return PairMaker([portrait()], 256, 3, CPU)


def test_steps_lower_every_loss_and_give_complete_states(small, gradients):
    kept = Kept()
    plan = FitPlan(seconds=600, seed=0, batch=1, learning_rate=1e-3, steps=11)
    fitted = fit(small, [portrait()], plan, CPU, kept)
    losses = {}
    for task, _, _ in kept.tasks:
        network, _, doing = task.partition(": ")
        if "loss" in doing:
            losses.setdefault(network, []).append(float(doing.split()[-1]))
    assert set(losses) == {"generator", "keypoint detector", "mapping"}
    assert all(seen[-1] < 0.9 * seen[0] for seen in losses.values()), losses
    assert fitted.steps == 11
    for name, module in build_networks(small).items():
        module.load_state_dict(fitted.states[name], strict=True)
        assert all(value.isfinite().all() for value in fitted.states[name].values())


def test_the_same_seed_draws_the_same_pairs_and_another_seed_others():
    def drawn(seed):
        return PairMaker([portrait()], 256, seed, CPU).batch(2)

    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not torch.equal(drawn(1)[1], drawn(2)[1])


def test_pairs_are_pictures_in_range(pairs):
    source, driving, origin, target = pairs.batch(3)
    assert source.shape == target.shape == (3, 3, 256, 256)
    assert driving.shape == origin.shape == (3, 15, 3)
    assert source.min() >= 0
    assert target.max() <= 1


def test_keypoints_that_stay_leave_the_picture_as_it_is(pairs):
    source = pairs.sources(1)
    still = canonical_keypoints()
    assert (pairs.warp(source, still, still) - source).abs().max().item() < 1e-4


def test_the_picture_moves_with_its_keypoints(pairs):
    """A white dot at a keypoint is found again where the keypoint went."""
    kp_source = canonical_keypoints()
    kp_driving = kp_source + torch.tensor([0.125, -0.0625, 0.3])
    nose = ((kp_source[0, 4, :2] + 1) * 128).long()
    picture = torch.zeros(1, 3, 256, 256)
    picture[:, :, nose[1] - 2 : nose[1] + 3, nose[0] - 2 : nose[0] + 3] = 1
    moved = pairs.warp(picture, kp_driving, kp_source)[0, 0]
    y, x = divmod(moved.argmax().item(), 256)
    # 0.125 of -1..1 is 16 pixels. The background holds the picture back a little.
    assert 11 <= x - nose[0].item() <= 18
    assert -10 <= y - nose[1].item() <= -4


def test_a_moved_portrait_carries_its_keypoints(pairs):
    """Undoing the known similarity by the keypoints gives the portrait again: the labels belong to the pictures."""
    pictures, points = pairs.moved_portraits(4)
    canonical = pairs.canonical[0]
    for picture, found in zip(pictures, points, strict=True):
        columns = torch.cat((canonical[:, :2], torch.ones(15, 1)), dim=1)
        affine = torch.linalg.lstsq(columns, found[:, :2]).solution.t()
        grid = torch.nn.functional.affine_grid(affine[None], [1, 3, 256, 256], align_corners=False)
        back = torch.nn.functional.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)
        # Exposure and tint were changed too, so that shapes are compared and not levels.
        face, original = back[0, 1, 70:170, 80:180], portrait()[1, 70:170, 80:180]
        assert torch.corrcoef(torch.stack((face.flatten(), original.flatten())))[0, 1] > 0.97


def test_random_coefficients_cover_the_driving_sequence_and_do_not_give_away_the_middle(pairs):
    windows = random_coefficients(pairs, 512, 73)
    assert windows.shape == (512, 73, 27)
    yaw, _, _, _, expression = pose_of(windows)
    assert yaw.abs().max() > 0.27
    assert expression.isfinite().all()
    # Were every window nearly constant, a network that looks at any frame would do.
    assert windows.std(dim=2).mean() > 0.1


def test_settled_batch_norms_stand_still_at_the_mean_of_fresh_batches():
    norm = nn.BatchNorm2d(1)
    norm.train()
    _settle_batch_norms(nn.Sequential(norm), lambda: norm(3 + 2 * torch.randn(8, 1, 32, 32)))
    assert abs(norm.running_mean.item() - 3) < 0.1
    assert abs(norm.running_var.item() - 4) < 0.2
    kept = norm.running_mean.clone()
    norm(torch.full((8, 1, 4, 4), 100.0))
    assert torch.equal(norm.running_mean, kept)


def test_training_pictures_are_the_ones_given(tmp_path):
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "red.png")
    (only,) = training_pictures([tmp_path / "red.png"])
    assert only.shape == (3, 30, 30)  # The middle square, as a source image is cut.
    assert len(training_pictures([])) > 1
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"words\.png"):
        training_pictures([tmp_path / "words.png"])


@pytest.mark.parametrize("half", [True, False])
def test_stored_weights_come_back(tmp_path, seeded_states, seeded_demo, half):
    path = tmp_path / "weights" / "demo.safetensors"
    save_standin(path, demo_config(), Fitted(seeded_states, 30.0, 7), {"seed": "0"}, half=half)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size <= (4_000_000 if half else 8_100_000)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["held_out_psnr"] == "30.00"
        assert file.metadata()["seed"] == "0"
    renderer = load_standin(path, "demo", 512)
    assert renderer.config == demo_config(512)
    tolerance = 6e-4 if half else 1e-6
    for network in NETWORKS:
        expected = getattr(seeded_demo, network).state_dict()
        for name, value in getattr(renderer, network).state_dict().items():
            assert value.dtype == expected[name].dtype
            assert torch.allclose(value, expected[name], rtol=tolerance, atol=1e-6), name
    assert torch.equal(renderer.kp_extractor.down.weight, seeded_demo.kp_extractor.down.weight)


def test_half_stored_weights_are_no_half_numbers(tmp_path, seeded_states):
    """A float16 engine has to round them, as it has to round anybody's trained weights."""
    save_standin(tmp_path / "w.safetensors", demo_config(), Fitted(seeded_states, 30.0, 7), {}, half=True)
    weight = load_standin(tmp_path / "w.safetensors", "demo", 256).generator.fourth.weight
    assert (weight.half().float() == weight).float().mean().item() < 0.05


def test_weights_beyond_float16_are_refused_and_nothing_is_written(tmp_path, seeded_states):
    large = {**seeded_states, "generator": {**seeded_states["generator"], "fourth.bias": torch.full((32,), 1e6)}}
    with pytest.raises(UserError, match=r"generator\.fourth\.bias"):
        save_standin(tmp_path / "w.safetensors", demo_config(), Fitted(large, 30.0, 7), {}, half=True)
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_standin_files_are_refused(tmp_path, seeded_states):
    path = tmp_path / "w.safetensors"
    save_standin(path, demo_config(), Fitted(seeded_states, 30.0, 7), {}, half=True)
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="cannot be read"):
        load_standin(path, "demo", 256)
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"holds no weights of `sadtrt fit`.*--checkpoint"):
        load_standin(path, "demo", 256)
    del tensors["generator.fourth.bias"]
    save_file(tensors, path, metadata=header)
    with pytest.raises(UserError, match=r"lacks fourth\.bias"):
        load_standin(path, "demo", 256)
    save_file(tensors, path, metadata={**header, "config": '{"colour": 1}'})
    with pytest.raises(UserError, match="cannot be read"):
        load_standin(path, "demo", 256)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, h: t.update({"generator.fourth.bias": torch.full((32,), torch.nan)}), "not finite"),
        (lambda t, h: t.update({"generator.fourth.bias": torch.ones(32, dtype=torch.int32)}), "int32"),
        (lambda t, h: t.update({"generator.fourth.bias": torch.ones(32).to(torch.float8_e4m3fn)}), "float8_e4m3fn"),
        (lambda t, h: t.update({"other.bias": torch.ones(1)}), "no network's"),
        (lambda t, h: h.update(config="[1]"), "cannot be read"),
        (lambda t, h: h.update(config=h["config"].replace('"generator_width": 8', '"generator_width": "8"')), "whole"),
        (
            lambda t, h: h.update(config=h["config"].replace('"generator_width": 8', '"generator_width": -8')),
            "cannot be read",
        ),
        (lambda t, h: h.update(config=h["config"].replace('"generator_width": 8', '"generator_width": 9')), "shape"),
        (lambda t, h: h.update(config="[" * 100_000), "cannot be read"),
    ],
)
def test_standin_files_with_values_of_no_use_are_one_sentence(tmp_path, seeded_states, change, said):
    path = tmp_path / "w.safetensors"
    save_standin(path, demo_config(), Fitted(seeded_states, 30.0, 7), {}, half=True)
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    change(tensors, header)
    save_file(tensors, path, metadata=header)
    with pytest.raises(UserError) as caught:
        load_standin(path, "demo", 256)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_keeps_a_demo_in_the_cache(tmp_path, quick):
    shipped = standin.DEMO_FILE.read_bytes()
    answer = CliRunner().invoke(app, ["fit", "--demo", "--steps", "1", "--batch", "1", "--cache", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert standin.DEMO_FILE.read_bytes() == shipped
    assert (tmp_path / "weights" / "demo-256-seed0.safetensors").exists()


def test_a_fit_keeps_the_demo_where_it_was_asked_to(tmp_path, quick):
    Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / "me.png")
    out = tmp_path / "demo.safetensors"
    plan = FitPlan(seconds=600, seed=5, batch=1, steps=1)
    fitted = fit_standin(256, demo=True, plan=plan, portraits=[tmp_path / "me.png"], out=out, device=CPU)
    with safe_open(out, framework="pt") as file:
        header = file.metadata()
    assert header["pictures"] == "me.png"
    assert header["seed"] == "5"
    assert float(header["held_out_psnr"]) == pytest.approx(fitted.held_out_psnr, abs=0.01)
    assert load_standin(out, "demo", 256).weights.kind == "demo"


@pytest.mark.parametrize(("wanted", "budget"), [(1.0, 6), (99.0, 2)])
def test_a_fit_of_a_folder_ends_when_it_is_sharp_enough(tmp_path, quick, wanted, budget):
    faces = tmp_path / "faces"
    faces.mkdir()
    for name in ("b.png", "a.png"):
        Image.new("RGB", (64, 64), (90, 120, 60)).save(faces / name)
    (faces / "README.md").write_text("whose faces these are")
    out = tmp_path / "demo.safetensors"
    plan = FitPlan(seconds=6000, seed=5, batch=1, steps=budget, until_psnr=wanted)
    fitted = fit_standin(256, demo=True, plan=plan, portraits=[faces], out=out, device=CPU)
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["pictures"] == "a.png, b.png"
    assert (fitted.steps == budget) == (wanted > 90)


def test_a_name_that_is_no_weights_file_is_refused_before_fitting(tmp_path):
    plan = FitPlan(seconds=600, seed=0)
    with pytest.raises(UserError, match=r"expected one that ends in \.safetensors"):
        fit_standin(256, demo=True, plan=plan, portraits=[], out=tmp_path / "w", device=CPU)
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_not_fitted_over(tmp_path):
    checkpoint, page = tmp_path / "SadTalker.safetensors", tmp_path / "page.safetensors"
    save_file({"generator.fourth.bias": torch.zeros(3)}, checkpoint)
    page.write_text("<html>")
    for path in (checkpoint, page):
        before = path.read_bytes()
        with pytest.raises(UserError, match="is there already and holds no weights of `sadtrt fit`"):
            fit_standin(256, demo=True, plan=FitPlan(), portraits=[], out=path, device=CPU)
        assert path.read_bytes() == before
    face = tmp_path / "face.png"
    Image.new("RGB", (64, 64)).save(face)
    arguments = ["--portrait", str(face), "--preview", str(face), "--out", str(tmp_path / "new.safetensors")]
    refused = CliRunner().invoke(app, ["fit", "--demo", *arguments])
    assert (refused.exit_code, "is what is fitted on" in refused.output) == (2, True)


@pytest.fixture
def cached(tmp_path, seeded_states):
    """A cache with fitted weights in it (demo widths: only the place matters)."""
    save_standin(fitted_file(tmp_path, 256), demo_config(), Fitted(seeded_states, 30.0, 7), {}, half=True)
    return tmp_path


def chosen(cache, choice, has_gpu, said=None):
    heard = Kept() if said is None else said
    return choose_weights(256, None, None, choice, has_gpu=has_gpu, cache=cache, report=heard).weights.kind


def test_fitted_weights_are_chosen_on_a_gpu_and_by_name(cached):
    said = Kept()
    assert chosen(cached, "auto", True, said) == "fitted"
    assert chosen(cached, "fitted", False, said) == "fitted"
    assert said.lines == []


def test_the_demo_is_chosen_without_a_gpu_and_said_on_one(cached, tmp_path, monkeypatch):
    monkeypatch.setattr(standin, "DEMO_FILE", fitted_file(cached, 256))
    said = Kept()
    assert chosen(cached, "auto", False, said) == "demo"
    assert said.lines == []
    assert chosen(tmp_path / "empty", "auto", True, said) == "demo"
    assert "sadtrt fit --size 256" in said.lines[0]
    assert "make bench ARGS=--weights=fit" in said.lines[0]
    monkeypatch.setattr(standin, "DEMO_FILE", tmp_path / "absent")
    assert chosen(cached, "demo", False, said) == "seeded"
    assert "says nothing" in said.lines[-1]


def test_weights_are_fitted_first_where_that_is_asked_for_and_none_are_cached(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(standin, "FitPlan", lambda: FitPlan(seconds=600, seed=0, batch=1, steps=1))
    said = Kept()
    with pytest.raises(UserError, match="hours on a CPU"):
        chosen(tmp_path, "fit", False)
    assert chosen(tmp_path, "fit", True, said) == "fitted"
    assert "three minutes" in said.lines[0]
    first = fitted_file(tmp_path, 256).read_bytes()
    assert chosen(tmp_path, "fit", False) == "fitted"
    assert fitted_file(tmp_path, 256).read_bytes() == first


def test_seeded_is_itself_and_other_names_are_refused(cached, tmp_path):
    assert chosen(cached, "seeded", False) == "seeded"
    with pytest.raises(UserError, match="sadtrt fit --size 256"):
        chosen(tmp_path / "empty", "fitted", True)
    with pytest.raises(UserError, match="best"):
        chosen(cached, "best", False)


def test_weights_of_another_seed_or_file_are_chosen_by_name(cached, seeded_states):
    def chosen_name(choice, size=256, said=None):
        heard = Kept() if said is None else said
        return choose_weights(size, None, None, choice, has_gpu=True, cache=cached, report=heard).weights.name

    with pytest.raises(UserError, match="`sadtrt fit --size 256 --seed 1` on a GPU"):
        chosen_name("fitted-seed1")
    second = fitted_file(cached, 256, 1)
    save_standin(second, demo_config(), Fitted(seeded_states, 30.0, 7), {}, half=True)
    assert chosen_name("fitted-seed1") == "fitted-256-seed1"
    assert chosen_name("fitted") == "fitted-256-seed0"
    moved = second.rename(cached / "elsewhere.safetensors")
    assert chosen_name(str(moved)) == "elsewhere"
    said = Kept()
    # The networks take any size: what was fitted at 256 pixels renders 512 where nothing else is there.
    assert chosen_name("fitted", 512, said) == "fitted-256-seed0"
    assert "rendering 512 pixels with fitted-256-seed0" in said.lines[0]
    with pytest.raises(UserError, match=r"cannot read nowhere\.safetensors"):
        chosen_name("nowhere.safetensors")
    for wrong in ("fitted-seed", "fitted-seed-1", "fitted-seed1.bin", "w.pth"):
        with pytest.raises(UserError, match="are not known: expected auto"):
            chosen_name(wrong)
