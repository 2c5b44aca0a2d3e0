"""The digest of source files that caches carry."""

from __future__ import annotations

import pytest

from sadtrt_core import source


def test_any_changed_file_changes_the_digest(tmp_path, monkeypatch):
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph" / "export.py").write_text("a = 1\n")
    (tmp_path / "stages.py").write_text("b = 1\n")
    monkeypatch.setattr(source, "_PACKAGE", tmp_path)
    digest = source.source_digest.__wrapped__
    first = digest("graph", "stages.py")
    assert digest("graph", "stages.py") == first
    (tmp_path / "graph" / "export.py").write_text("a = 2\n")
    assert digest("graph", "stages.py") != first
    with pytest.raises(FileNotFoundError):
        digest("nothing.py")
