"""The digest of source files that caches carry."""

from __future__ import annotations

from pathlib import Path

from sadtrt_core import LAYERS
from sadtrt_core.files import code_digest


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
