from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from record_examples import WEIGHTS, drift, key, latency, measured, on_cpu, run_of
from rich.console import Console
from typer.testing import CliRunner

from sadtrt_core.case import Case
from sadtrt_core.cli import app
from sadtrt_core.errors import UserError
from sadtrt_core.records.measurements import Drift, Resources, Telemetry
from sadtrt_core.records.schema import Record, Run, Weights
from sadtrt_core.records.store import write_run
from sadtrt_core.report.answer import headline
from sadtrt_core.report.chart import draw_pareto, frontier, pareto_points
from sadtrt_core.report.clip import CLIP_LIMIT, PNG_SIGNATURE, make_clip
from sadtrt_core.report.html import markdown_summary, print_tables, write_html
from sadtrt_core.report.tables import parts_against_whole

REFERENCE = Case("generator", "pytorch", "fp32", "torch", 1)


def whole_run(**changes: object) -> Run:
    parts = [
        measured(Case(stage, "tensorrt", "fp16", grid, 1), latency=latency(ms), drift=None)
        for stage, grid, ms in (("appearance", "none", 1.0), ("motion", "native", 1.0), ("warp", "native", 1.0))
    ]
    return run_of(
        measured(REFERENCE, latency=latency(20.0), drift=drift((None, None), lsb=(0, 0))),
        measured(key(), latency=latency(5.0), drift=drift((40.0, 44.0), lsb=(9, 7))),
        measured(key(precision="fp16-mixed"), latency=latency(5.2), notes=("<script>alert(1)</script>",)),
        *parts,
        measured(Case("decode", "tensorrt", "fp16", "none", 1), latency=latency(3.0), drift=None),
        Record(key(precision="bf16"), "failed", "no bf16 in this builder [yet]"),
        Record(key(runner="onnxruntime"), "skipped", "no CUDA provider"),
        Record(key("warp", runner="onnxruntime"), "skipped", "no CUDA provider"),
        **changes,
    )


def printed(run: Run) -> str:
    stream = io.StringIO()
    print_tables(run, Console(file=stream, width=220))
    return stream.getvalue()


def test_tables_say_how_much_faster_and_what_it_costs() -> None:
    text = printed(whole_run())
    assert re.search(r"generator +│ pytorch .* reference ", text)
    assert re.search(r"generator +│ tensorrt │ fp16 .* (4\.0|3\.9)\dx faster ", text)
    assert re.search(r"generator +│ tensorrt │ fp16 .*│ +40\.0 │ +42\.0 │ +0\.9990 │ +9 │ +0 ", text)
    assert "identical" in text
    slower = printed(run_of(measured(REFERENCE, latency=latency(5.0)), measured(latency=latency(10.0))))
    assert re.search(r"(2\.0|1\.9)\dx slower", slower)


def test_what_was_not_run_is_one_line_for_each_reason() -> None:
    lines = printed(whole_run()).splitlines()
    (skipped,) = [line for line in lines if "no CUDA provider" in line]
    assert "onnxruntime fp16 (warp, generator)" in skipped
    assert any("no bf16 in this builder [yet]" in line and "failed" in line for line in lines)


def test_parts_that_do_not_add_up_are_pointed_at() -> None:
    (entry,) = parts_against_whole(whole_run())
    assert (entry.clock, entry.agrees) == ("device", False)
    assert entry.difference == pytest.approx(0.2, abs=0.01)
    assert re.search(r"\+(19|20)\.\d% does not add up", printed(whole_run()))
    on_host = [
        measured(key(stage), latency=latency(None, ms))
        for stage, ms in (("generator", 4.0), ("appearance", 1.0), ("motion", 1.0), ("warp", 1.0), ("decode", 1.0))
    ]
    (entry,) = parts_against_whole(on_cpu(run_of(*on_host)))
    assert (entry.clock, entry.agrees) == ("host", True)
    assert parts_against_whole(run_of(*on_host[:-1])) == ()


def test_tables_and_chart_have_their_own_order_however_a_run_was_shuffled() -> None:
    stages = ("generator", "appearance", "frame")
    rows = [measured(key(stage, precision=name)) for name in ("fp16-mixed", "fp16") for stage in stages]
    run = run_of(*reversed(rows))
    assert [entry.whole.key.precision for entry in parts_against_whole(run)] == ["fp16", "fp16-mixed"]
    assert [record.key.precision for _, _, record in pareto_points(run)[1]] == ["fp16", "fp16-mixed"]


def test_telemetry_tells_clocks_and_what_was_disturbed() -> None:
    seen = Telemetry((1500.0, 1980.0, 1980.0), None, (45.0, 50.0, 50.2), (400.0,) * 3, ("software power cap",))
    run = run_of(measured(latency=latency(disturbed=(1, 2)), telemetry=seen, resources=Resources(900.0, 220.0, 812.34)))
    (line,) = (line for line in printed(run).splitlines() if "1500 to 1980" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[5:] == ["1500 to 1980", "-", "45 to 50", "400", "-", "-", "2 of 60", "software power cap"]
    assert "Telemetry" not in printed(run_of(measured()))


def test_doubts_are_told_beside_the_figures() -> None:
    unsteady = printed(run_of(measured(latency=latency(steady=False))))
    assert re.search(r"\d \* │", unsteady)
    broken = printed(run_of(measured(drift=Drift((70.0, float("nan")), (1.0, 1.0), (1, 9), (False, True)))))
    assert "NaN in 1 of 2" in broken
    seeded = run_of(measured(drift=drift(meaningful=False)), weights=Weights("seeded", "by name", "d"))
    assert "say nothing about a trained renderer" in " ".join(printed(seeded).split())
    for kind, words in (("demo", "neither its times nor its drift are SadTalker's"), ("fitted", "drifts otherwise")):
        assert words in " ".join(printed(run_of(measured(), weights=Weights(kind, "by name", "d"))).split())
    own = printed(run_of(measured(), weights=Weights("checkpoint", "SadTalker", "d")))
    assert "renderer of its own" not in own
    assert "stand-ins" not in own
    assert "interrupted" in printed(run_of(measured(), complete=False))
    assert "nothing was recorded" in printed(run_of())


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_report_is_one_file_that_needs_no_other(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    picture = PNG_SIGNATURE + b"rest"
    (tmp_path / "frames" / "tensorrt-fp16.png").write_bytes(picture)
    (tmp_path / "frames" / "page.png").write_bytes(b"<html>")
    (tmp_path / "secret").write_bytes(picture)
    (tmp_path / "frames" / "link.png").symlink_to(tmp_path / "secret")
    path = write_html(whole_run(), tmp_path)
    text = path.read_text("utf-8")
    page = Links()
    page.feed(text)
    # The page's own, and the only one that its policy lets run.
    assert page.tags.count("script") == 1
    assert "&lt;script&gt;" in text
    assert page.tags.count("figure") == 1
    assert len(page.targets) == 1
    assert all(target.startswith("data:image/png;base64,") for target in page.targets)
    assert base64.b64encode(picture).decode() in text
    assert (tmp_path / "pareto.svg").read_text() in text


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    text = write_html(run_of(), tmp_path).read_text("utf-8")
    assert "Nothing was recorded" in text
    assert "nothing to draw" in text
    assert not (tmp_path / "pareto.svg").exists()


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*pareto\.svg"):
        write_html(whole_run(), tmp_path / "nowhere")


def test_the_chart_leaves_out_what_means_nothing() -> None:
    broken = Drift((float("nan"),), (1.0,), (1,), (True,))
    clock, points = pareto_points(
        run_of(measured(), measured(key(precision="fp8"), drift=broken), measured(key("warp")))
    )
    assert clock == "device"
    assert [record.key.precision for _, _, record in points] == ["fp16"]
    clock, points = pareto_points(run_of(measured(batchless := key(batch=4)), measured(latency=latency(None))))
    assert clock == "host"
    assert next(time for time, _, record in points if record.key == batchless) < 2.0
    seeded = run_of(measured(drift=drift(meaningful=False)), weights=Weights("seeded", "by name", "d"))
    assert draw_pareto(seeded) is None
    assert draw_pareto(run_of(dataclasses.replace(measured(), status="failed", reason="CUDA error"))) is None


def test_the_frontier_holds_what_nothing_beats() -> None:
    points = ((5.0, 40.0), (5.2, 71.0), (6.0, 60.0), (20.0, 120.0), (5.2, 50.0))
    assert frontier(points) == [(5.0, 40.0), (5.2, 71.0), (20.0, 120.0)]


def test_markdown_stays_markdown() -> None:
    text = markdown_summary(whole_run(weights=Weights(WEIGHTS.kind, "a|b <i> @team\nnext", "d")))
    assert r"a\|b &lt;i&gt; &#64;team next" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in tables} == {5, 12, 14}
    assert "no CUDA provider" in text
    assert not any(line.startswith("| warp") for line in tables)


def test_a_run_of_the_frame_alone_is_answered_by_the_frame() -> None:
    frame = Case("frame", "tensorrt", "fp16", "plugin", 1)
    fp32 = Case("frame", "pytorch", "fp32", "torch", 1)
    rows = [
        measured(fp32, latency=latency(20.0), drift=drift((None, None), lsb=(0, 0))),
        measured(frame, latency=latency(4.0), drift=drift((70.0, 71.0))),
    ]
    assert headline(run_of(*rows)).startswith("tensorrt fp16 renders a frame in 4.00 ms, 5.00 times as fast")
    assert [point[2].key for point in pareto_points(run_of(*rows))[1]] == [rows[0].key, frame]
    assert "time of the frame, ms a frame" in str(draw_pareto(run_of(*rows)))
    # Of both, they are those of which there are more, then the generator's.
    generator = measured(key(), latency=latency(5.0), drift=drift((80.0, 81.0)))
    assert headline(run_of(*rows, generator)).startswith("tensorrt fp16 renders a frame in 4.00 ms")
    both = run_of(*rows, generator, measured(key(precision="bf16"), latency=latency(9.0), drift=drift((50.0, 51.0))))
    assert headline(both).startswith(f"{key().runner} {key().precision} renders a frame in 5.00 ms")


def test_a_gpu_that_waits_for_its_host_is_not_the_answer() -> None:
    waiting = measured(key(runner="tensorrt-enqueue"), latency=latency(4.9, 14.0))
    row = measured(key(), latency=latency(5.0, 5.2))
    assert headline(run_of(waiting, row)).startswith("tensorrt fp16 renders")


def test_the_first_words_are_the_answer(tmp_path: Path) -> None:
    text = write_html(whole_run(), tmp_path).read_text("utf-8")
    page = " ".join(re.sub(r"<[^>]*>", " ", text[text.index("<body>") :]).split())
    assert re.search(
        r"tensorrt fp16-mixed renders a frame in 5\.\d\d ms, 3\.\d\d times as fast as [a-z- ]*fp32, and its worst "
        r"frame keeps 70\.0 dB, at most 2 levels of 255 off\.",
        page,
    )
    assert re.search(
        r"times as fast as [a-zA-Z- ]*fp32 3\.\d\d worst frame's PSNR, at most 2 levels of 255 off 70\.0 dB "
        r"energy a frame 0\.80 J",
        page,
    )
    assert "Don't ship tensorrt fp16 (40.0 dB)" in page.replace("&#39;", "'")
    assert "none beside the reference keeps 60 dB" in headline(run_of(measured(drift=drift((40.0, 44.0)))))
    assert re.match(r"tensorrt fp16 renders a frame in 5\.\d\d ms, and its worst frame", headline(run_of(measured())))
    half = measured(Case("generator", "pytorch", "fp16", "torch", 1), latency=latency(4.0))
    strict = measured(REFERENCE, latency=latency(20.0), drift=drift((None, None), lsb=(0, 0)))
    words = r"pytorch fp16 renders a frame in \d\.\d\d ms, [45]\.\d\d times as fast as pytorch fp32,"
    assert re.match(words, headline(run_of(strict, half))), "it is the best PyTorch itself"
    broken = dataclasses.replace(half, status="failed", reason="CUDA error: misaligned address")
    assert "No precision can be shipped" in headline(run_of(strict, broken))
    seeded = run_of(measured(drift=drift(meaningful=False)), weights=Weights("seeded", "by name", "d"))
    assert "cannot say which precision to ship" in headline(seeded)


def test_columns_that_are_empty_for_the_whole_run_are_left_out_of_the_page(tmp_path: Path) -> None:
    text = write_html(on_cpu(run_of(measured(latency=latency(None)))), tmp_path).read_text("utf-8")
    assert ">host ms<" in text
    assert ">device ms<" not in text
    assert "device ms" in printed(run_of(measured(latency=latency(None))))


@pytest.mark.parametrize("count", [6, 40])
def test_names_in_a_chart_do_not_overlap_and_hovering_tells_those_without_room(count: int) -> None:
    rows = [measured(key(precision=f"precision-{n:02}"), latency=latency(5.0 + n / 50)) for n in range(count)]
    chart = draw_pareto(run_of(*rows)) or ""
    labels = re.findall(r'<text class="r0" x="([\d.]+)" y="([\d.]+)">(precision-\d\d)[^<]*</text>', chart)
    assert "precision-00" in [name for _, _, name in labels], "the fastest has its name, however many there are"
    assert (len(labels) == 6) if count == 6 else (6 < len(labels) < 40)
    for (ax, ay), (bx, by) in itertools.combinations([(float(x), float(y)) for x, y, _ in labels], 2):
        assert abs(ax - bx) >= 7 * len("precision-00") or abs(ay - by) >= 13
    assert len(re.findall("<title>generator/tensorrt/precision-", chart)) == count


def test_an_axis_has_several_figures_however_narrow_it_is() -> None:
    for low, high in ((5.0, 5.2), (1350.0, 2700.0), (2.0, 60.0), (9.0, 11.0), (0.9, 1.1)):
        run = run_of(measured(latency=latency(low)), measured(key(precision="fp32"), latency=latency(high)))
        values = [float(one) for one in re.findall(r'text-anchor="middle">([\d.]+)<', draw_pareto(run) or "")]
        assert 2 <= len(values) <= 10, (low, high)
        assert values == sorted(set(values))


def test_clips_and_pictures_of_a_run_are_taken_in_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for name, size in (("generator-tensorrt-fp16-native", 100), ("generator-tensorrt-fp16-mixed-native", CLIP_LIMIT)):
        (tmp_path / "frames" / f"{name}.mp4").write_bytes(b"0000ftyp" + b"0" * size)
        (tmp_path / "frames" / f"{name}.png").write_bytes(PNG_SIGNATURE)
    (tmp_path / "frames" / "another.mp4").write_bytes(b"0000ftyp")
    text = write_html(whole_run(), tmp_path).read_text("utf-8")
    assert text.count("<video") == 1
    assert 'aria-label="tensorrt fp16, worst frame 0: 40.0 dB' in text
    assert "no clip: tensorrt fp16-mixed." in text
    # The still stays where no clip takes its place.
    assert text.count("<img") == 1
    assert "Worst frame of generator-tensorrt-fp16-mixed-native" in text
    bare = write_html(whole_run(), tmp_path.parent).read_text("utf-8")
    assert "No clips: " in bare


def test_frames_that_are_no_plain_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for make, name in (
        (os.mkfifo, "generator-tensorrt-fp16-native"),
        (Path.mkdir, "generator-tensorrt-fp16-mixed-native"),
    ):
        for ending in ("mp4", "png"):
            make(tmp_path / "frames" / f"{name}.{ending}")
    text = write_html(whole_run(), tmp_path).read_text("utf-8")
    assert "<video" not in text
    assert "<img" not in text
    assert "no clip: tensorrt fp16, tensorrt fp16-mixed." in text


def test_a_clip_is_reference_candidate_and_error_side_by_side() -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    reference = torch.full((3, 3, 64, 64), 0.5)
    candidate = reference.clone()
    candidate[1:, :, :32] = 0.75
    candidate[2, :, 40] = torch.nan
    with av.open(io.BytesIO(make_clip(reference, candidate))) as file:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]
    assert [frame.shape for frame in frames] == [(64, 192, 3)] * 3
    assert abs(frames[0][:, :120] - 128).max() < 8
    assert frames[0][:, 136:].max() < 16
    assert abs(frames[1][8:24, 72:120] - 191).max() < 8
    # A quarter of the range is beyond the strongest error that the colours tell apart.
    assert frames[1][8:24, 136:].min(axis=2).mean() > 140
    assert frames[1][40:, 136:].max() < 40
    assert frames[2][40, 140:180].mean() > 140


def test_two_runs_stand_beside_each_other_with_the_gates_verdicts(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write_run(run_of(measured(), measured(REFERENCE)), a)
    write_run(run_of(measured(latency=latency(6.0)), measured(REFERENCE), started_utc="2025-01-31T12:01:00Z"), b)
    done = CliRunner().invoke(app, ["report", str(a), str(b), "--html", str(tmp_path / "both.html")])
    assert done.exit_code == 0, done.output
    assert "gate: regression (1 slower, 1 same)" in done.output
    text = (tmp_path / "both.html").read_text("utf-8")
    assert "B against A: gate: regression (1 slower, 1 same)" in text
    assert text.count('class="answer"') == 2
    refused = CliRunner().invoke(app, ["report", str(a), str(b), str(a)])
    assert refused.exit_code == 2
    assert CliRunner().invoke(app, ["report", str(a), "--html", str(a)]).exit_code == 2
