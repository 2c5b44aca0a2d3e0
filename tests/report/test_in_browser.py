"""The report of a real run in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sadtrt_core.benchmark import measure_drift, measure_latency
from sadtrt_core.config import RunConfig
from sadtrt_core.gate.judge import compare_runs
from sadtrt_core.gate.limits import Thresholds
from sadtrt_core.gate.output import comparison_table
from sadtrt_core.measure.interleave import Interleaver, take_samples
from sadtrt_core.measure.timing import TimingPlan
from sadtrt_core.records.store import read_run
from sadtrt_core.renderer.renderer import Renderer
from sadtrt_core.report.html import html_page
from sadtrt_core.session import Session

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytest.importorskip("av", reason="PyAV is not installed: pip install av")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)

#: PyTorch itself takes minutes for half precision on a CPU.
ROWS = (("pytorch", "fp32"), ("onnxruntime", "fp16-mixed"), ("onnxruntime", "fp16"))
BASELINES = Path(__file__).parents[2] / "results" / "baselines"
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def cpu_run(tiny_256: Renderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of small networks."""
    folder = tmp_path_factory.mktemp("run")
    session = Session(RunConfig(weights="seeded", frames=3, device="cpu", cache=folder, results=folder / "results"))
    plan = TimingPlan(warmup_calls=1, warmup_seconds=0, sample_seconds=0, samples_min=2, samples_max=2)
    # Noise has no place in a chart.
    named = dataclasses.replace(tiny_256, weights=dataclasses.replace(tiny_256.weights, kind="demo"))
    session.__dict__.update(timing_plan=plan, renderer=named)
    interleaver = Interleaver(plan)
    for runner, precision in ROWS:
        case = session.case("generator", runner, precision)
        measure_latency(session, case, interleaver, take_samples, lambda record: None, pytest.fail)
        measure_drift(session, case, lambda active: active.frames(session.frame_inputs()))
    session.finish()
    return session.writer.folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a file at a width; at the end of the test nothing may have been complained of, or asked of a network."""
    complaints: list[str] = []
    pages = []

    def opened(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend([request.url] * request.url.startswith("http")))
        page.goto(path.as_uri())
        return page

    yield opened
    for page in pages:
        page.close()
    assert complaints == []


def wait(page: Any, function: str, argument: object = None) -> None:
    """Wait until a function of JavaScript is true; Playwright's own wait needs eval, which the page forbids."""
    for _ in range(600):
        if page.evaluate(function, argument):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"not so after half a minute: {function}")


def at_frame(page: Any, frame: int) -> None:
    """Wait until every clip is at the frame and shows it."""
    wait(
        page,
        """frame => [...document.querySelectorAll("video")].every(
            one => !one.seeking && one.readyState > 1 && Math.floor(one.currentTime * 25) === frame)
            && [...document.querySelectorAll(".both")].every(one => one.dataset.frame === String(frame))""",
        frame,
    )


def pixels(page: Any, canvas: str) -> bytes:
    """What a canvas of the first clip shows, as PNG."""
    return page.locator(canvas).first.evaluate("one => one.toDataURL()").encode()


def test_the_clips_play_and_seek_in_step(cpu_run: Path, open_page: Any) -> None:
    page = open_page(cpu_run / "report.html")
    assert page.locator("video").count() == len(ROWS) - 1
    worst = [int(one.get_attribute("data-worst")) for one in page.locator(".clip").all()]
    at_frame(page, worst[0])
    slider = page.get_by_role("slider", name="frame", exact=True)
    assert slider.get_attribute("max") == "2"
    page.locator(".worst").nth(1).click()
    at_frame(page, worst[1])
    slider.focus()
    page.keyboard.press("Home")
    at_frame(page, 0)
    first = pixels(page, ".both"), pixels(page, ".error")
    page.keyboard.press("End")
    at_frame(page, 2)
    wait(page, "first => document.querySelector('.error').toDataURL() !== first", first[1].decode())
    assert pixels(page, ".both") != first[0]
    page.get_by_role("button", name="Play").click()
    wait(page, "() => [...document.querySelectorAll('video')].every(one => !one.paused)")
    wait(page, "() => document.querySelector('.frame').value === '1'")
    page.get_by_role("button", name="Pause", exact=True).click()
    wait(page, "() => [...document.querySelectorAll('video')].every(one => one.paused)")
    at_frame(page, int(slider.input_value()))


def test_the_divider_moves_between_reference_and_candidate(cpu_run: Path, open_page: Any) -> None:
    page = open_page(cpu_run / "report.html")
    wait(page, "() => document.querySelector('.frame').max === '2'")
    divider = page.locator(".divider").first
    seen = {}
    for key in ("Home", "End"):
        divider.press(key)
        seen[key] = pixels(page, ".both")
    assert seen["Home"] != seen["End"]
    box = divider.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    values = {one.input_value() for one in page.locator(".divider").all()}
    assert len(values) == 1
    assert 15 < int(values.pop()) < 30


def test_tables_sort_and_filter(cpu_run: Path, open_page: Any) -> None:
    page = open_page(cpu_run / "report.html")
    table = page.get_by_role("region", name="Latency")
    heading = table.get_by_role("columnheader", name=re.compile("^host ms"))
    column = heading.evaluate("one => one.cellIndex")

    def times() -> list[float]:
        return [
            float(row.locator("td").nth(column).get_attribute("data-value")) for row in table.locator("tbody tr").all()
        ]

    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert times() == sorted(times())
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert times() == sorted(times(), reverse=True)
    page.get_by_label("runner").select_option("pytorch")
    assert table.locator("tbody tr:visible").count() == 1
    page.get_by_label("runner").select_option("all")
    assert table.locator("tbody tr:visible").count() == len(ROWS)
    assert table.get_by_role("columnheader", name=re.compile("^device ms")).count() == 0


def test_the_chart_names_a_row(cpu_run: Path, open_page: Any) -> None:
    page = open_page(cpu_run / "report.html")
    point = page.locator(".point").last
    assert not point.locator(".row").is_visible()
    point.hover()
    assert point.locator(".row").inner_html().startswith("generator/onnxruntime/fp16-mixed/")


@pytest.fixture(scope="module")
def shown(cpu_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Reports of the CPU run, of committed GPU runs, and of two of these beside each other."""
    folders = [BASELINES / "h100-frame", BASELINES / "h200-trt8.6"]
    runs = [read_run(folder) for folder in folders]
    views = list(zip("AB", runs, folders, strict=True))
    table = comparison_table(compare_runs(runs[1], runs[0], Thresholds()), *runs)
    pages = [html_page([("", run, folder)]) for run, folder in zip(runs, folders, strict=True)]
    files = [cpu_run / "report.html"]
    for number, text in enumerate([*pages, html_page(views, table)]):
        files.append(tmp_path_factory.mktemp("page") / f"{number}.html")
        files[-1].write_text(text)
    return files


def test_nothing_overflows_and_everybody_can_read_it(shown: list[Path], open_page: Any) -> None:
    for path in shown:
        for width, scheme in zip(WIDTHS, ("light", "dark"), strict=True):
            page = open_page(path, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            found = axe.Axe().run(page).response["violations"]
            grave = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
            assert grave == [], f"{path} at {width} px"
