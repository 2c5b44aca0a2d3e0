"""Checkpoints as people have them: the guide's bare state dict, wrapped, prefixed, unpacked, with more beside."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.checkpoint import load_checkpoint
from sadtrt_core.renderer.renderer import build_networks, seeded_state
from sadtrt_core.renderer.stages import STAGES, seeded_notes


@pytest.fixture(scope="module")
def states(tiny):
    """State dicts that differ from what is drawn where a file lacks them."""
    drawn = {name: seeded_state(module.state_dict()) for name, module in build_networks(tiny.config).items()}
    return {
        network: {name: value * 1.5 if name.endswith("bias") else value for name, value in state.items()}
        for network, state in drawn.items()
    }


@pytest.fixture
def load(tiny, tmp_path):
    """Saves what it is given as model.pth and loads that as a checkpoint of small networks."""

    def loaded(content, mapping=None, **options):
        torch.save(content, tmp_path / "model.pth", **options)
        if mapping is not None:
            torch.save(mapping, tmp_path / "mapping.pth")
        return load_checkpoint(tmp_path / "model.pth", 256, tmp_path / "mapping.pth" if mapping else None, tiny.config)

    return loaded


@pytest.fixture
def refusal(load):
    def refused(content, **options):
        with pytest.raises(UserError) as caught:
            load(content, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def bias(renderer):
    return renderer.generator.state_dict()["fourth.bias"]


WRAPPINGS = {
    "bare": lambda s: s["generator"],
    "state_dict": lambda s: {"state_dict": s["generator"]},
    "generator alone": lambda s: {"generator": s["generator"]},
    "DataParallel": lambda s: prefixed(s["generator"], "module."),
    "of a wrapping module": lambda s: prefixed(s["generator"], "model."),
    "compiled": lambda s: {"state_dict": prefixed(s["generator"], "_orig_mod."), "epoch": 3},
    "two wrappers": lambda s: {"generator": prefixed(s["generator"], "module._orig_mod.")},
    "flat in a model": lambda s: {"model": prefixed(s["generator"], "generator.")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_generator_however_it_was_saved_serves_what_needs_it(states, load, wrapping):
    renderer = load(WRAPPINGS[wrapping](states))
    assert torch.equal(bias(renderer), states["generator"]["fourth.bias"])
    assert "keypoint detector and mapping network seeded by entry name" in renderer.weights.name
    assert renderer.seeded == {"kp_extractor", "mapping"}
    for stage in STAGES.values():
        depends = stage.name in ("keypoints", "mapping", "clip")
        assert bool(seeded_notes(stage, renderer)) == depends


def test_a_prefix_that_was_taken_off_is_said(states, load):
    assert "module." in load(prefixed(states["generator"], "module.")).weights.name
    assert "module." in load({"generator": prefixed(states["generator"], "module.")}).weights.name
    assert "taken off" not in load({"state_dict": states["generator"]}).weights.name


def test_networks_beside_each_other_keep_their_own_entries(states, load):
    flat = {f"module.{network}.{name}": value for network in states for name, value in states[network].items()}
    renderer = load(flat)
    assert not renderer.seeded
    assert "seeded" not in renderer.weights.name
    assert torch.equal(bias(renderer), states["generator"]["fourth.bias"])


def test_a_bare_state_dict_of_the_mapping_network_is_one(states, load):
    renderer = load(states["generator"], mapping=states["mapping"])
    assert renderer.seeded == {"kp_extractor"}
    assert torch.equal(renderer.mapping.state_dict()["fc_yaw.bias"], states["mapping"]["fc_yaw.bias"])


def test_a_bare_safetensors_file_is_taken(states, tiny, tmp_path):
    save_file(states["generator"], tmp_path / "g.safetensors")
    renderer = load_checkpoint(tmp_path / "g.safetensors", 256, None, tiny.config)
    assert torch.equal(bias(renderer), states["generator"]["fourth.bias"])


def test_counters_of_batches_may_be_missing(states, load):
    without = {name: value for name, value in states["generator"].items() if "num_batches" not in name}
    assert torch.equal(bias(load(without)), states["generator"]["fourth.bias"])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_numpy_values_and_counters_beside_the_tensors_are_no_reason_to_refuse(states, load, zipped):
    beside = {"epoch": np.int64(3), "loss": np.float64(0.5), "lr": np.array([1.0]), "step": 7, "best": np.bool_(True)}
    renderer = load({"generator": states["generator"], **beside}, _use_new_zipfile_serialization=zipped)
    assert torch.equal(bias(renderer), states["generator"]["fourth.bias"])
    renderer = load({**states["generator"], **beside}, _use_new_zipfile_serialization=zipped)
    assert torch.equal(bias(renderer), states["generator"]["fourth.bias"])


@pytest.mark.parametrize("value", [argparse.Namespace(lr=1), Path("x")], ids=["Namespace", "Path"])
def test_a_refused_pickle_names_what_would_run_and_how_to_save_it_again(states, refusal, value):
    sentence = refusal({"generator": states["generator"], "args": value})
    assert type(value).__name__ in sentence
    assert "torch.save(generator.state_dict(), 'model.pth')" in sentence


def test_what_there_is_instead_is_said(states, refusal):
    assert "has no generator, but kp_extractor" in refusal({"kp_extractor": states["kp_extractor"]})
    assert "has no generator, but discriminator" in refusal({"discriminator": {"a": torch.zeros(1)}})
    assert "nothing with a name" in refusal({})


def test_two_sets_of_weights_are_not_chosen_between(states, refusal):
    twice = {"state_dict": {"generator": states["generator"]}, "model": {"generator": states["generator"]}}
    assert "twice" in refusal(twice)


def test_an_unpacked_file_is_told_from_a_damaged_one(states, tmp_path):
    torch.save(states["generator"], tmp_path / "model.pth")
    with zipfile.ZipFile(tmp_path / "model.pth") as archive:
        archive.extractall(tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    for path in (tmp_path / "out", folder, folder / "data.pkl"):
        with pytest.raises(UserError, match="unpacked"):
            load_checkpoint(path, 256)


def test_a_zip_that_unpacks_to_more_than_it_has_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("model/data/0", bytes(1 << 24))
    with pytest.raises(UserError, match="compressed"):
        load_checkpoint(path, 256)


def nested_dicts(depth):
    content = {"a": torch.zeros(1)}
    for _ in range(depth):
        content = {"a": content, "b": content}
    return content


def test_dicts_in_dicts_are_followed_so_far(refusal):
    assert "deeper dicts" in refusal(nested_dicts(30))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(16).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]), "nested"),
        (torch.zeros(16).to_sparse(), "sparse"),
        (torch.full((16,), 1e300, dtype=torch.float64), "not finite"),
        (torch.zeros(16, dtype=torch.bool), "bool"),
        (torch.zeros(1).expand(1 << 40), "shape"),
    ],
)
def test_values_of_no_use_are_one_sentence(states, refusal, value, said):
    assert said in refusal({**states["generator"], "fourth.bias": value})


def test_paths_that_are_no_file_are_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / ("x" * 300), Path("/dev/zero"), tmp_path / "a\0b", tmp_path / "absent"):
        with pytest.raises(UserError, match="cannot read"):
            load_checkpoint(path, 256)
