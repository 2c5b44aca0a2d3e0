"""Loading SadTalker's checkpoints: the real names and shapes load strictly, everything else is one clear sentence."""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib

import pytest
import torch
from safetensors.torch import save_file

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.checkpoint import load_checkpoint


def constant(name: str, dtype: torch.dtype) -> torch.Tensor:
    """One value that differs from entry to entry, so that a swapped entry shows."""
    if not dtype.is_floating_point:
        return torch.tensor(7, dtype=dtype)
    return torch.tensor(0.5 + zlib.crc32(name.encode()) % 512 / 1024, dtype=dtype)


def stored(published, dtype=None):
    """Every published entry, filled with its constant; one element in memory however large it is."""
    return {
        network: {
            name: constant(name, dtype if dtype and kind == "float32" else getattr(torch, kind)).expand(shape)
            for name, (shape, kind) in entries.items()
        }
        for network, entries in published.items()
    }


@pytest.fixture(scope="session")
def published(data_dir):
    return json.loads((data_dir / "state_dict.json").read_text())


@pytest.fixture
def networks(published):
    """The three networks' entries, for a test to change and save."""
    return stored(published)


@pytest.fixture
def save(tmp_path):
    """Saves the older kind of checkpoint, with what SadTalker's own files have beside the networks."""

    def saved(networks, name="facevid2vid_00189-model.pth.tar", **options):
        content = {"kp_detector": networks["kp_extractor"], "generator": networks["generator"], "epoch": 189}
        content["optimizer_generator"] = {"state": {}, "param_groups": [{"lr": 2e-4}]}
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return saved


@pytest.fixture
def mapping_file(tmp_path, networks):
    torch.save({"mapping": networks["mapping"], "epoch": 229}, tmp_path / "mapping_00229-model.pth.tar")
    return tmp_path / "mapping_00229-model.pth.tar"


def refusal(path, *arguments):
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, 256, *arguments)
    sentence = str(caught.value)
    assert str(path) in sentence or (arguments and str(arguments[0]) in sentence)
    assert "\n" not in sentence
    assert len(sentence) < 500
    return sentence


def assert_holds_constants(module, names=None):
    assert isinstance(module, torch.nn.Module)
    for name, value in module.state_dict().items():
        if names is None or name in names:
            assert value.dtype == constant(name, value.dtype).dtype
            assert torch.equal(value, constant(name, value.dtype).expand(value.shape)), name


def assert_spectral_norm_is_folded(generator):
    state = generator.state_dict()
    assert not any(name.endswith("weight_orig") for name in state)
    prefix = "decoder.G_middle_2.conv_0.weight"
    original, u, v = (constant(f"{prefix}_{part}", torch.float64) for part in ("orig", "u", "v"))
    folded = original / (u * original * v * state[prefix].numel())
    assert (state[prefix].double() / folded - 1).abs().max().item() < 1e-6


def test_published_safetensors_load_whole_and_other_networks_are_ignored(tmp_path, published, mapping_file):
    # Half, so that the file is 300 MB and not 600: these values are exact in half precision.
    half = stored(published, torch.float16)
    flat = {
        f"{network}.{name}": half[network][name] for network in ("generator", "kp_extractor") for name in half[network]
    }
    flat = {name: value.contiguous() for name, value in flat.items()}
    flat["he_estimator.fc_yaw.weight"] = torch.zeros(2, 2)
    path = tmp_path / "SadTalker_V0.0.2_256.safetensors"
    save_file(flat, path)
    del flat
    renderer = load_checkpoint(path, 256, mapping_file)
    assert_holds_constants(renderer.kp_extractor)
    assert_holds_constants(renderer.mapping)
    assert_holds_constants(renderer.generator, ("first.conv.weight", "dense_motion_network.mask.bias"))
    assert_spectral_norm_is_folded(renderer.generator)
    assert renderer.weights.kind == "checkpoint"
    assert path.name in renderer.weights.name
    assert mapping_file.name in renderer.weights.name

    cut = tmp_path / "cut.safetensors"
    with path.open("rb") as whole:
        cut.write_bytes(whole.read(1_000_000))
    path.unlink()
    assert "download it again" in refusal(cut)


def test_older_pickles_load_whole_at_512_pixels_with_any_float_type(networks, save, seeded_full):
    for name, dtype in (
        ("third.conv.bias", torch.float16),
        ("fourth.bias", torch.bfloat16),
        ("second.bias", torch.float64),
    ):
        networks["generator"][name] = networks["generator"][name].to(dtype)
    renderer = load_checkpoint(save(networks, _use_new_zipfile_serialization=False), 512)
    assert_holds_constants(renderer.generator, ("third.conv.bias", "second.bias"))
    assert_holds_constants(renderer.kp_extractor)
    assert renderer.config.image_size == 512
    assert not renderer.generator.training
    # No mapping network in the file, and no file of its own: seeded, and said.
    assert "seeded" in renderer.weights.name
    seeded = seeded_full.mapping.state_dict()
    assert all(torch.equal(value, seeded[name]) for name, value in renderer.mapping.state_dict().items())


def test_the_full_image_mapping_network_takes_73_coefficients(networks, save, tmp_path):
    networks["mapping"]["first.0.weight"] = constant("first.0.weight", torch.float32).expand(1024, 73, 7)
    mapping = tmp_path / "mapping_00109-model.pth.tar"
    torch.save({"mapping": networks["mapping"]}, mapping)
    renderer = load_checkpoint(save(networks), 256, mapping)
    assert_holds_constants(renderer.mapping)
    assert renderer.config.coefficients == 73
    assert renderer.mapping(torch.zeros(1, 73, 27))[0].shape == (1, 66)


def test_missing_entries_are_named(networks, save):
    for name in ("first.conv.weight", "fourth.bias", "decoder.fc.weight", "decoder.fc.bias"):
        del networks["generator"][name]
    sentence = refusal(save(networks))
    assert "generator" in sentence
    assert "first.conv.weight" in sentence
    assert "and 1 more" in sentence


def test_unexpected_entries_are_named(networks, save):
    networks["kp_extractor"]["jacobian.weight"] = torch.zeros(3)
    sentence = refusal(save(networks))
    assert "kp_extractor" in sentence
    assert "jacobian.weight" in sentence


def test_a_wrong_shape_names_both_shapes(networks, save):
    networks["generator"]["third.conv.weight"] = torch.zeros(256, 512, 1, 1)
    sentence = refusal(save(networks))
    assert "third.conv.weight" in sentence
    assert "(256, 512, 1, 1)" in sentence
    assert "(256, 512, 3, 3)" in sentence


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("third.conv.bias", torch.zeros(256, dtype=torch.int32), "int32"),
        ("third.conv.bias", torch.zeros(256, dtype=torch.complex64), "complex64"),
        ("third.norm.num_batches_tracked", torch.tensor(1.5), "float32"),
        ("third.conv.bias", torch.full((256,), float("nan")), "not finite"),
        ("third.norm.running_var", torch.full((256,), float("inf")), "not finite"),
        # A double that no float32 can hold.
        ("third.conv.bias", torch.full((256,), 1e300, dtype=torch.float64), "not finite"),
        ("third.conv.bias", torch.zeros(256, device="meta"), "plain values"),
        ("third.conv.bias", torch.zeros(256).to_sparse(), "plain values"),
        ("third.conv.bias", [0.0] * 256, "a list"),
    ],
)
def test_a_bad_value_is_named(networks, save, name, value, said):
    networks["generator"][name] = value
    sentence = refusal(save(networks))
    assert name in sentence
    assert said in sentence


class WritesAFile:
    """Unpickled without protection, this makes a file: a stand-in for worse."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "torch legacy", "pickle 2", "pickle 5"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, how):
    path, made = tmp_path / "epoch_20.pth", tmp_path / "made"
    content = {"generator": WritesAFile(made)}
    if how.startswith("torch"):
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    assert "run code" in refusal(path)
    assert not made.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_pickle_is_refused(networks, save, zipped, share):
    path = save(networks, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refusal(path)


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    def made(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 725066984\n"
    assert "git lfs pull" in refusal(made("pointer.safetensors", pointer))
    assert "empty" in refusal(made("empty.pth", b""))
    assert "download it again" in refusal(made("page.safetensors", b"<!DOCTYPE html><title>404</title>"))
    assert "folder" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "absent.safetensors")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    assert "no whole checkpoint" in refusal(tmp_path / "other.zip")


def test_a_file_of_something_else_is_refused(tmp_path, networks, save, mapping_file):
    torch.save([1, 2, 3], tmp_path / "list.pth")
    assert "a list" in refusal(tmp_path / "list.pth")
    torch.save({"generator": torch.zeros(3)}, tmp_path / "tensor.pth")
    assert "dict of tensors" in refusal(tmp_path / "tensor.pth")
    assert "no generator" in refusal(mapping_file)
    whole = save(networks)
    assert "no mapping network" in refusal(whole, whole)
