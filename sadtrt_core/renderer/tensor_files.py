"""Files of tensors that others wrote, by torch.save or as .safetensors: read without ever running what they hold."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.files import file_start

#: SadTalker's older checkpoints, with discriminators and optimizers, have two gigabytes.
SIZE_LIMIT = 16 << 30
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_UNPACKED = "data.pkl"
_GLOBAL = re.compile(r"(?:GLOBAL|global|class|function) ([A-Za-z_][\w.]*\.\w+)")


class _Ignored:
    """Takes the place of a numpy value: an epoch or a loss beside the tensors is no reason to refuse them."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMPY = [
    (_Ignored, name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.{core}.multiarray.{made}" for core in ("core", "_core") for made in ("scalar", "_reconstruct")),
    )
]


def read_tensors(path: Path, again: str, limit: int = SIZE_LIMIT) -> object:
    """What a file of torch.save holds, or the dict of a .safetensors file; its contents decide, not its ending.

    A zip is mapped: a tensor's bytes are read only where it is used. Numpy values are left out. `again` is the command
    that saves the file so that it can be taken. Raises UserError for a file that is missing, none of these, damaged,
    compressed, of over `limit` bytes, or that would run code.
    """
    folder = os.path.isdir(path)
    if path.name == _UNPACKED or (folder and any((*path.glob(_UNPACKED), *path.glob(f"*/{_UNPACKED}")))):
        raise UserError(f"{path} is part of a checkpoint that was unpacked: give the .pth file itself, as downloaded")
    if folder:
        raise UserError(f"{path} is a folder: give the file inside it")
    start = file_start(path, len(_LFS_POINTER))
    if os.path.getsize(path) > limit:
        raise UserError(f"{path} has over {limit >> 20} MiB: no such file is that large")
    if not start:
        raise UserError(f"{path} is empty: download it again")
    if start == _LFS_POINTER:
        raise UserError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` where it was cloned")
    # .pth.tar is no archive, and people rename files.
    if start.startswith((_ZIP, _PICKLE)):
        return _unpickled(path, again, zipped=start.startswith(_ZIP))
    return read_safetensors(path)[1]


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header's own entries and the tensors of a .safetensors file. Raises UserError."""
    file_start(path, 1)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # The bytes are a stranger's, and the library has errors of several kinds.
        raise UserError(
            f"{path} cannot be read as .safetensors, .pth or .pth.tar ({_words(error)}): download it again, or make it "
            "with `sadtrt fit`"
        ) from error


def _unpickled(path: Path, again: str, zipped: bool) -> object:
    try:
        if zipped:
            _require_stored(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_NUMPY)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises the reader to switch the protection off, so that it is not repeated here.
        named = _GLOBAL.search(str(error).partition("WeightsUnpickler error")[2])
        what = f"would run code ({named[1]}) when unpickled" if named else "is damaged or would run code when unpickled"
        raise UserError(f"{path} is refused, because it {what}: where you trust it, load and save it as {again}") from (
            error
        )
    except Exception as error:  # The bytes are a stranger's: a damaged pickle may raise nearly anything.
        raise UserError(f"{path} is no whole checkpoint of torch.save ({_words(error)}): download it again") from error


def _require_stored(path: Path) -> None:
    """Refuse a zip that has more in it than bytes: torch.save compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise UserError(f"{path} is a compressed archive, which torch.save never writes: give the file as it was saved")


def plain_tensor(what: str, value: object) -> Tensor:
    """`value` where it is a tensor whose values are all there; UserError names `what` it is for."""
    if not isinstance(value, Tensor):
        raise UserError(f"{what} is a {type(value).__name__}: expected a tensor")
    if value.is_nested or value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise UserError(
            f"{what} is a sparse, nested, quantized or empty-handed tensor: expected a dense one of plain values"
        )
    return value.detach().resolve_neg()


def is_float(dtype: torch.dtype) -> bool:
    """Whether values are floats of 16 bits or more: those of eight bits are codes of somebody's scales."""
    return dtype in _FLOATS


def _words(error: Exception) -> str:
    """An error's first line, short enough to stand in a sentence."""
    line = (str(error).splitlines() or [""])[0].strip().rstrip(".:")
    return line[:120] or type(error).__name__
