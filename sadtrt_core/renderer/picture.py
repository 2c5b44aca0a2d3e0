"""Pictures from files of others: upright, square, in 0..1, with nothing in them that nobody sees."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sadtrt_core.errors import UserError
from sadtrt_core.files import read_file

#: What Pillow decodes by itself: for EPS and some others it starts other programs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
FILE_LIMIT = 1 << 28
#: Around 0..1: rounding, and what resampling overshoots.
TOLERANCE = 0.01


def load_picture(path: Path, size: int | None = None) -> Tensor:
    """A picture's middle square in 0..1, upright, scaled to (3, size, size) where a size is given.

    Sixteen-bit grey is scaled by its own white, float grey has to be in 0..1, and what is transparent is white. Raises
    UserError.
    """
    content = read_file(path, FILE_LIMIT)
    try:
        upright = _visible(str(path), content)
        edge = size or min(upright.size)
        return picture_tensor(np.asarray(ImageOps.fit(upright, (edge, edge), Image.Resampling.LANCZOS)))
    except UserError:
        raise
    except Exception as error:  # The bytes are a stranger's, and every decoder has errors of its own.
        words = " ".join(str(error).split())[:120].replace("<_io.BytesIO object", "<the file") or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture ({words}): give a PNG or JPEG file") from error


def picture_files(given: Sequence[Path]) -> tuple[Path, ...]:
    """The files that were given and, of each folder, those in it, by name. Raises UserError for an empty folder.

    Files whose names begin with a dot, texts and subfolders of a folder are left out; what else is no picture is
    refused when it is read.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        inside = [file for file in inside if file.suffix.lower() not in (".md", ".txt")]
        if not inside:
            raise UserError(f"{path} is a folder without pictures: give PNG or JPEG files, or a folder of them")
        found += inside
    return tuple(dict.fromkeys(found))


def picture_tensor(pixels: np.ndarray) -> Tensor:
    """(3, H, W) in 0..1 of pixels (H, W, 3) in 0..255, or of grey ones (H, W) in 0..1."""
    made = torch.from_numpy(np.array(pixels)).float()
    if made.dim() == 2:
        return made.clamp(0, 1).expand(3, -1, -1).contiguous()
    return made.permute(2, 0, 1) / 255


def require_unit_range(what: str, low: float, high: float) -> None:
    """UserError where the values of a picture are not those of 0..1, with what they look like."""
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    if low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        guess = ", which looks like -1..1: add 1 and halve"
    elif low >= -TOLERANCE and 2 < high <= 256:
        guess = ", which looks like 0..255: divide by 255"
    else:
        guess = ""
    raise UserError(f"{what} has values from {low:.4g} to {high:.4g} where 0..1 is expected{guess}")


def _visible(what: str, content: bytes) -> Image.Image:
    """The picture as eyes see it: RGB of 8 bits, or grey floats in 0..1 (mode F) where it has more."""
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Twice as many pixels are an error of Pillow's by themselves.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
            upright = ImageOps.exif_transpose(opened)
            sixteen_bits = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
    if sixteen_bits:
        return Image.fromarray(np.asarray(upright, dtype=np.float32) / 65535)
    if upright.mode == "I":
        raise UserError(f"{what} has whole numbers of 32 bits, whose white nobody knows: save it with 8 or 16 bits")
    if upright.mode == "F":
        grey = np.asarray(upright)
        if not np.isfinite(grey).all():
            raise UserError(f"{what} has values that are not finite")
        require_unit_range(what, float(grey.min()), float(grey.max()))
        return upright
    if upright.has_transparency_data:
        seen = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return upright.convert("RGB")
