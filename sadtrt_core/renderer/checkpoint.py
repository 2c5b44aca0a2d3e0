"""SadTalker's published weights: .safetensors, .pth and .pth.tar, read without ever running what a file holds.

A checkpoint has the generator and the keypoint detector; the mapping network is published as a file of its own. Where
none is given, the mapping network gets name-seeded weights and the weights' name says so: the generator, and every
figure of its drift, does not depend on them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.config import COEFFICIENTS, RendererConfig
from sadtrt_core.renderer.renderer import NETWORKS, Renderer, States, assemble, build_networks, seeded_state

#: SadTalker's full-image mapping network also takes three crop numbers.
COEFFICIENTS_FULL_IMAGE = 73
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
#: The older pickles call the keypoint detector by another name.
_OTHER_NAMES = {"kp_detector": "kp_extractor"}
_NAMED = 3


def load_checkpoint(path: Path, image_size: int, mapping_path: Path | None = None) -> Renderer:
    """A renderer under SadTalker's weights, spectral norm folded, float32 whatever float type the file has.

    `path` has generator and keypoint detector, `mapping_path` the mapping network (also looked for in `path`), of 70 or
    73 coefficients. Other networks in the files are ignored. Raises UserError where a file is missing, cut short,
    no checkpoint, would run code, lacks an entry or has one too many, of another shape, of no float type, or holds a
    value that is not finite.
    """
    found = _networks(path)
    for network in ("generator", "kp_extractor"):
        if network not in found:
            raise UserError(
                f"{path} has no {network}: expected SadTalker's renderer checkpoint, with generator and kp_extractor"
            )
    if mapping_path is not None:
        separate = _networks(mapping_path)
        if "mapping" not in separate:
            raise UserError(f"{mapping_path} has no mapping network: expected SadTalker's mapping checkpoint")
        found["mapping"] = separate["mapping"]
    first = found.get("mapping", {}).get("first.0.weight")
    wide = first is not None and first.dim() == 3 and first.shape[1] == COEFFICIENTS_FULL_IMAGE
    # The shape check below refuses what is neither.
    config = RendererConfig(image_size, coefficients=COEFFICIENTS_FULL_IMAGE if wide else COEFFICIENTS)
    with torch.device("meta"):
        expected = {name: module.state_dict() for name, module in build_networks(config).items()}
    sources = {"generator": path, "kp_extractor": path, "mapping": mapping_path or path}
    states = {name: _checked(sources[name], name, found[name], expected[name]) for name in NETWORKS if name in found}
    name = path.name
    if "mapping" in states:
        name += f" with {mapping_path.name}" if mapping_path is not None else ""
    else:
        # Built for real: counters stay as built, and the meta device has no values for them.
        states["mapping"] = seeded_state(build_networks(config)["mapping"].state_dict())
        name += ", mapping network seeded by entry name"
    return assemble(config, states, "checkpoint", name)


def _networks(path: Path) -> States:
    """The networks in a file, by this project's names, whatever kind of file it is. Raises UserError."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the checkpoint file inside it")
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the path of SadTalker's .safetensors, .pth or .pth.tar")
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
    if not start:
        raise UserError(f"{path} is empty: download it again")
    if start == _LFS_POINTER:
        raise UserError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` where it was cloned")
    # The contents decide, not the ending: .pth.tar is no archive, and people rename files.
    if start.startswith((_ZIP, _PICKLE)):
        return _from_pickle(path, mapped=start.startswith(_ZIP))
    return _from_safetensors(path)


def _from_safetensors(path: Path) -> States:
    found: States = {}
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118, a safetensors file is no mapping
                network, _, name = key.partition(".")
                if network in NETWORKS:
                    found.setdefault(network, {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is no whole .safetensors, .pth or .pth.tar file ({_words(error)}): download it again"
        ) from error
    return found


def _from_pickle(path: Path, mapped: bool) -> States:
    """`mapped` reads a tensor's bytes only where it is used: the old files are mostly discriminators and optimizers."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises the reader to switch the protection off, so that it is not repeated here.
        raise UserError(
            f"{path} is refused, because it holds more than tensors and would run code when unpickled, or is damaged: "
            "use the .safetensors file of the same weights"
        ) from error
    except Exception as error:  # The bytes are a stranger's: a damaged pickle may raise nearly anything.
        raise UserError(f"{path} is no whole checkpoint of torch.save ({_words(error)}): download it again") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds {_a(loaded)}: expected a dict of networks, as SadTalker's checkpoints are")
    found: States = {}
    for key, value in loaded.items():
        if not isinstance(key, str):
            continue
        nested = _OTHER_NAMES.get(key, key)
        network, _, name = key.partition(".")
        if nested in NETWORKS:
            if not isinstance(value, dict):
                raise UserError(f"{path} holds {_a(value)} as {key}: expected a dict of tensors")
            found.setdefault(nested, {}).update(value)
        elif network in NETWORKS:
            found.setdefault(network, {})[name] = value
    return found


def _checked(
    path: Path, network: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state with floats as float32, exactly the entries and shapes of `expected`, all finite."""
    where = f"{network} in {path}"
    missing = [name for name in expected if name not in state]
    if missing:
        raise UserError(f"{where} lacks {_some(missing)}: expected SadTalker's checkpoint of the published sizes")
    unexpected = [str(name) for name in state if name not in expected]
    if unexpected:
        raise UserError(
            f"{where} has {_some(unexpected)}, which this renderer has no place for: expected SadTalker's checkpoint"
        )
    return {name: _value(f"{name} of {where}", state[name], wanted) for name, wanted in expected.items()}


def _value(what: str, value: object, wanted: Tensor) -> Tensor:
    """One entry, checked; floats as float32, counters as they are."""
    if not isinstance(value, Tensor):
        raise UserError(f"{what} is {_a(value)}: expected a tensor")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise UserError(f"{what} is a sparse, quantized or empty-handed tensor: expected plain values")
    if value.is_floating_point() != wanted.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        kind = "float32 (or another float type)" if wanted.is_floating_point() else "int64"
        raise UserError(f"{what} has type {str(value.dtype).removeprefix('torch.')}: expected {kind}")
    if value.shape != wanted.shape:
        raise UserError(f"{what} has shape {tuple(value.shape)}: expected {tuple(wanted.shape)}")
    # Cloned: a file may describe any strides, and one that is mapped should not stay open behind the renderer.
    value = value.detach().to(wanted.dtype).clone(memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(value).all()):
        raise UserError(f"{what} has values that are not finite: the file is damaged, download it again")
    return value


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _a(value: object) -> str:
    return f"a {type(value).__name__}"


def _words(error: Exception) -> str:
    """An error's first line, short enough to stand in a sentence."""
    line = (str(error).splitlines() or [""])[0].strip().rstrip(".:")
    return line[:120] or type(error).__name__
