"""Files as they are read and written at every door, and the digest of source files that caches carry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sadtrt_core import LAYERS
from sadtrt_core.errors import UserError
from sadtrt_core.files import code_digest, read_file, require_writable, write_file


def test_the_digest_is_of_a_layer_and_all_below_it_and_of_nothing_above(tmp_path: Path) -> None:
    for name in LAYERS:
        (tmp_path / f"{name}.py").write_text("a = 1\n")
    digest = code_digest.__wrapped__
    first = digest("graph", tmp_path)
    (tmp_path / "engine.py").write_text("a = 2\n")
    assert digest("graph", tmp_path) == first
    assert digest("engine", tmp_path) != first
    (tmp_path / "case.py").write_text("a = 2\n")
    assert digest("graph", tmp_path) != first


def test_only_plain_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "file", 5) == read_file(tmp_path / "link", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    refused = {
        tmp_path / "file": "has more than",
        tmp_path / "nowhere": "No such file",
        tmp_path / "pipe": "it is no plain file",
        tmp_path: "Is a directory",
        Path("/dev/zero"): "it is no plain file",
        tmp_path / ("a" * 300): "File name too long",
        tmp_path / "nul\0": "embedded null byte",
    }
    for path, words in refused.items():
        with pytest.raises(UserError, match=words):
            read_file(path, 4)


def test_what_is_no_plain_file_is_written_to_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_file(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    for full in (Path("/dev/full"), tmp_path):
        with pytest.raises(UserError, match="cannot write"):
            write_file(full, "content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_trying_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to("nowhere")
    require_writable(tmp_path / "results" / "mine")
    require_writable(tmp_path / "plans" / "mine.toml", file=True)
    for refused in (tmp_path / "file" / "results", tmp_path / "gone", tmp_path / ("a" * 300)):
        with pytest.raises(UserError, match="cannot write"):
            require_writable(refused)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]
