"""Pictures from files: scaled by their own white, without what nobody sees, and never opened by another program."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from sadtrt_core.errors import UserError
from sadtrt_core.renderer.picture import load_picture, require_unit_range


def grey(path, value, kind):
    Image.fromarray(np.full((32, 32), value, dtype=kind)).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_by_its_own_white(tmp_path, ending):
    picture = load_picture(grey(tmp_path / f"g.{ending}", 0x8000, np.uint16), 64)
    assert picture.shape == (3, 64, 64)
    assert picture.mean().item() == pytest.approx(0.5, abs=0.001)


def test_sixteen_bit_pgm_is_scaled_by_its_own_white(tmp_path):
    (tmp_path / "g.pgm").write_bytes(b"P5 8 8 65535\n" + b"\x80\x00" * 64)
    assert load_picture(tmp_path / "g.pgm", 64).mean().item() == pytest.approx(0.5, abs=0.001)


def test_float_grey_is_taken_where_it_is_in_0_to_1(tmp_path):
    assert load_picture(grey(tmp_path / "f.tif", 0.25, np.float32), 64).mean().item() == pytest.approx(0.25)
    with pytest.raises(UserError, match=r"0\.\.255: divide by 255"):
        load_picture(grey(tmp_path / "f.tif", 200.0, np.float32), 64)
    with pytest.raises(UserError, match="not finite"):
        load_picture(grey(tmp_path / "f.tif", np.nan, np.float32), 64)


def test_whole_numbers_of_32_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="32 bits"):
        load_picture(grey(tmp_path / "i.tif", 77, np.int32), 64)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_colour_of_transparent_pixels_is_not_rendered(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (32, 32), 0)
        image.putpalette([200, 0, 0])
        image.save(tmp_path / "t.png", transparency=0)
    else:
        Image.new(mode, (32, 32), (200, 0, 0, 0) if mode == "RGBA" else (90, 0)).save(tmp_path / "t.png")
    assert load_picture(tmp_path / "t.png", 64).min().item() == 1.0


def test_what_is_half_transparent_is_half_white_in_every_row(tmp_path):
    Image.new("RGBA", (64, 2100), (0, 0, 0, 128)).save(tmp_path / "tall.png")
    tall = load_picture(tmp_path / "tall.png")
    assert tall.shape == (3, 64, 64)
    Image.new("RGBA", (2100, 2100), (0, 0, 0, 128)).save(tmp_path / "large.png")
    picture = load_picture(tmp_path / "large.png")
    assert (picture == tall[0, 0, 0]).all()
    assert picture[0, 0, 0].item() == pytest.approx(127 / 255)


def test_pictures_that_another_program_would_decode_are_not_opened(tmp_path, monkeypatch):
    Image.new("RGB", (32, 32)).save(tmp_path / "p.eps")
    (tmp_path / "p.eps").rename(tmp_path / "face.png")
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(UserError, match="cannot be read as a picture"):
        load_picture(tmp_path / "face.png", 64)


@pytest.mark.parametrize("ending", ["avif", "webp", "jp2", "tif", "gif"])
def test_damaged_pictures_of_any_format_are_one_sentence(tmp_path, ending):
    path = tmp_path / f"p.{ending}"
    try:
        Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow has no {ending}")
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes(40) + content[100 : len(content) // 2])
    with pytest.raises(UserError) as caught:
        load_picture(path, 64)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_no_file_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            load_picture(path, 64)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-1.0, 1.0, "add 1 and halve"),
        (0.0, 255.0, "divide by 255"),
        (-300.0, 9.0, "from -300 to 9 where 0..1 is expected"),
    ],
)
def test_a_wrong_range_says_what_it_looks_like(low, high, said):
    require_unit_range("it", -0.005, 1.005)
    with pytest.raises(UserError) as caught:
        require_unit_range("it", low, high)
    assert said in str(caught.value)
