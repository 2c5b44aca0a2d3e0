"""What an engine is built from is the graph that was asked for, whatever lies in the cache under its name."""

from __future__ import annotations

from pathlib import Path

from sadtrt_core.engine.job import build_job
from sadtrt_core.precision import PRECISIONS
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.renderer.stages import STAGES


def test_a_damaged_graph_in_the_cache_is_written_again(seeded_demo: Renderer, tmp_path: Path) -> None:
    def graph() -> Path:
        precision = PRECISIONS["fp16"]
        return build_job(seeded_demo, STAGES["mapping"], precision, "native", 1, tmp_path, 3).graph

    written = graph().read_bytes()
    graph().write_bytes(written[:-1] + bytes([written[-1] ^ 1]))
    assert graph().read_bytes() == written
