"""Files of tensors that others wrote, by torch.save or as .safetensors: read without ever running what they hold."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from safetensors import safe_open
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.files import file_start
from sadtrt_core.renderer.config import IMAGE_SIZES

#: SadTalker's older checkpoints, with discriminators and optimizers, have two gigabytes.
SIZE_LIMIT = 16 << 30
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_UNPACKED = "data.pkl"
_PICKLES = 5  # Of the older format: a magic number, a version, the system, the content, the names of its values.
#: What PyTorch lets pass and makes gigabytes of a few bytes: zeros, and codecs that lengthen their own output. No file
#: of tensors needs them; numpy's values are encoded as latin1.
_GROWING = {"__builtin__ bytearray", "builtins bytearray"}
_ENCODE = "_codecs encode"
_LENGTHENING = {"base64", "bz2", "hex", "idna", "punycode", "quopri", "rot13", "uu", "zlib"}
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


def safetensors_header(path: Path) -> dict[str, str]:
    """The header's own entries, without the tensors; none where it is no .safetensors file that can be read."""
    try:
        file_start(path, 1)
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except Exception:  # As above: the bytes are a stranger's.
        return {}


def _unpickled(path: Path, again: str, zipped: bool) -> object:
    try:
        words = _zip_words(path) if zipped else _pickle_words(path)
        growing = _GROWING & words
        if _ENCODE in words and any(re.sub(r"[^a-z0-9]|codec$", "", one.lower()) in _LENGTHENING for one in words):
            growing = {_ENCODE}
        if growing:
            raise _refusal(path, f"would run code ({min(growing).replace(' ', '.')}) when unpickled", again)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_NUMPY)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises the reader to switch the protection off, so that it is not repeated here.
        named = _GLOBAL.search(str(error).partition("WeightsUnpickler error")[2])
        what = f"would run code ({named[1]}) when unpickled" if named else "is damaged or would run code when unpickled"
        raise _refusal(path, what, again) from error
    except Exception as error:  # The bytes are a stranger's: a damaged pickle may raise nearly anything.
        raise UserError(f"{path} is no whole checkpoint of torch.save ({_words(error)}): download it again") from error


def _refusal(path: Path, what: str, again: str) -> UserError:
    return UserError(f"{path} is refused, because it {what}: where you trust it, load and save it as {again}")


def _zip_words(path: Path) -> set[str]:
    """The words in a zip's pickle. UserError for one that has more in it than bytes: torch.save compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
            raise UserError(
                f"{path} is a compressed archive, which torch.save never writes: give the file as it was saved"
            )
        pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == _UNPACKED]
        return {word for entry in pickles for word in _words_of(archive.open(entry))}


def _pickle_words(path: Path) -> set[str]:
    """The words in the pickles that a file begins with, before the values of the tensors."""
    with open(path, "rb") as file:
        return {word for _ in range(_PICKLES) for word in _words_of(file)}


def _words_of(file: IO[bytes]) -> Iterator[str]:
    """Every text, and module and name of every global, up to the end of a pickle or to where it is damaged."""
    with contextlib.suppress(ValueError):  # Which is said when it is loaded: nothing behind it is.
        yield from (given for _, given, _ in pickletools.genops(file) if isinstance(given, str))


def plain_tensor(what: str, value: object) -> Tensor:
    """`value` where it is a tensor whose values are all there; UserError names `what` it is for."""
    if not isinstance(value, Tensor):
        raise UserError(f"{what} is a {type(value).__name__}: expected a tensor")
    if value.is_nested or value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise UserError(
            f"{what} is a sparse, nested, quantized or empty-handed tensor: expected a dense one of plain values"
        )
    return value.detach().resolve_neg()


def require_floats(what: str, tensor: Tensor) -> None:
    """UserError for values that are no floats of 16 bits or more: those of eight are codes of somebody's scales."""
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{what} has type {kind}: expected float32 (or another float type)")


def input_tensor(what: str, value: object, shape: tuple[int, ...], size_option: str) -> Tensor:
    """`value` where it is a dense tensor (N, *shape) of floats, or one row (*shape) of it.

    UserError names `what` it is for, and `size_option` where a picture is of another size that there is.
    """
    tensor = plain_tensor(what, value)
    found, axes = tuple(tensor.shape), len(shape)
    if found[-axes:] != shape or len(found) > axes + 1:
        hint = ""
        if axes == 3 and len(found) >= axes and found[-3] == shape[0] and found[-2:] != shape[-2:]:
            known = found[-1] in IMAGE_SIZES and found[-2] == found[-1]
            hint = f"; give {size_option}{found[-1]}" if known else f"; scale it to {shape[-1]} pixels a side"
        raise UserError(f"{what} has shape {found}: expected (N, {', '.join(map(str, shape))}){hint}")
    if not tensor.numel():
        raise UserError(f"{what} has shape {found}, which holds nothing: expected one row at least")
    require_floats(what, tensor)
    return tensor


def _words(error: Exception) -> str:
    """An error's first line, short enough to stand in a sentence."""
    line = (str(error).splitlines() or [""])[0].strip().rstrip(".:")
    return line[:120] or type(error).__name__
