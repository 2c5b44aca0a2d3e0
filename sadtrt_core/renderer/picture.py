"""Pictures from files of others: upright, square, in 0..1, with nothing in them that nobody sees."""

from __future__ import annotations

import io
import math
import os
import re
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
#: More than cameras mostly take; a few kilobytes may become gigabytes of larger ones.
MOST_PIXELS = 40_000_000
_NAMELESS = re.compile(r" <_io\.BytesIO object at \w+>")  # What Pillow calls bytes that have no name.
_STRIP = 1024  # Rows of pixels that are worked on at a time.
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
        words = _NAMELESS.sub("", " ".join(str(error).split()))[:120] or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture ({words}): give a PNG or JPEG file") from error


def picture_files(given: Sequence[Path]) -> tuple[Path, ...]:
    """The files that were given and, of each folder, those in it, by name. Raises UserError for an empty folder.

    Files whose names begin with a dot, texts and subfolders of a folder are left out; what else is no picture is
    refused when it is read.
    """
    found: list[Path] = []
    for path in given:
        if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long.
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


def require_finite(what: str, low: float, high: float) -> None:
    """UserError where one of these, the least and the largest value, is NaN or infinite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{what} has values that are not finite")


def require_unit_range(what: str, low: float, high: float) -> None:
    """UserError where the values of a picture are not those of 0..1, with what they look like."""
    require_finite(what, low, high)
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
        with Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise UserError(
                    f"{what} has {opened.width} x {opened.height} pixels: scale it down to {MOST_PIXELS / 1e6:.0f} "
                    "million at most"
                )
            sixteen_bits = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
            upright = ImageOps.exif_transpose(opened)
    del opened  # A large picture takes hundreds of megabytes: no more than two of it at a time.
    if sixteen_bits:
        grey = np.array(upright, dtype=np.float32)
        grey /= 65535
        return Image.fromarray(grey)
    if upright.mode == "I":
        raise UserError(f"{what} has whole numbers of 32 bits, whose white nobody knows: save it with 8 or 16 bits")
    if upright.mode == "F":
        grey = np.asarray(upright)
        require_unit_range(what, float(grey.min()), float(grey.max()))
        return upright
    if upright.has_transparency_data:
        seen = upright if upright.mode == "RGBA" else upright.convert("RGBA")
        for top in range(0, seen.height, _STRIP):
            box = (0, top, seen.width, min(top + _STRIP, seen.height))
            part = seen.crop(box)
            seen.paste(Image.alpha_composite(Image.new("RGBA", part.size, "white"), part), box)
        return seen.convert("RGB")
    return upright.convert("RGB")
