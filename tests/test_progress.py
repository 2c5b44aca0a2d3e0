"""What a person sees of work that takes time."""

from __future__ import annotations

import io

from rich.console import Console

from sadtrt_core.progress import ConsoleReporter


def test_lines_are_printed_as_they_are_and_each_task_has_one_bar() -> None:
    out = io.StringIO()
    with ConsoleReporter(Console(file=out, width=100)) as reporter:
        reporter.log("[half] built")
        reporter.progress("warp fp16 [x]: parsing", 1, 1)
        reporter.progress("warp fp16 [x]: timing", 1, 4)
        reporter.progress("motion fp16: timing", 0, None)
    shown = out.getvalue()
    assert "[half] built" in shown
    assert "warp fp16 [x]: timing" in shown
    assert "25%" in shown
    assert "parsing" not in shown, "a task's bar shows what it is doing now"
    assert shown.count("fp16") == 2


def test_without_a_block_lines_are_printed_and_no_bar_is_drawn() -> None:
    out = io.StringIO()
    reporter = ConsoleReporter(Console(file=out))
    reporter.log("first")
    reporter.progress("warp", 1, 2)
    assert out.getvalue() == "first\n"
