"""Figures of documents: those here follow from their files, and what does not, or cannot, is one sentence."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from sadtrt_core.cli import app
from sadtrt_core.commands.results import DOCUMENTS
from sadtrt_core.errors import UserError
from sadtrt_core.records.store import read_run
from sadtrt_core.report.documents import follow
from sadtrt_core.report.tables import summary_csv

ROOT = Path(__file__).parents[2]
FILES = sorted(file for pattern in DOCUMENTS for file in ROOT.glob(pattern))
SUMMARY = """stage,runner,precision,batch,device_ms_median,psnr_min,tensorrt
generator,pytorch,fp32,1,40.0,,8.6.0
generator,tensorrt,fp16,1,5.0,66.5,8.6.0
generator,tensorrt,fp16-mixed,1,4.0,78.15,8.6.0
generator,tensorrt,fp16-mixed,8,30.0,78.15,8.6.0
"""
SOURCE = "<!-- source run: summary.csv -->\n<!-- source times: check.json times -->\n"
TABLE = """<!-- table run generator batch=1 -->
| generator | device ms <!-- device_ms_median .2f --> | dB <!-- psnr_min .1f --> | times <!-- {times} .1f --> | note |
|---|---:|---:|---:|---|
| PyTorch <!-- pytorch fp32 --> | 40.00 | reference | 1.0 | 3 runs |
| **fp16-mixed** <!-- tensorrt fp16-mixed --> | **{ms}** | **78.2** | **10.0** | |
| another | 1 | 2 | 3 | 4 |
<!-- end -->
""".replace("{times}", ".. pytorch fp32 device_ms_median / device_ms_median")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "summary.csv").write_text(SUMMARY)
    times = [{"shape": "a, b", "method": "ours", "us": 2.0}, {"shape": "a, b", "method": "PyTorch, half", "us": 5.0}]
    times.append({"shape": "a, b", "method": "PyTorch, fp32", "us": 9.0})
    (tmp_path / "check.json").write_text(json.dumps({"times": times, "caught": [{"n": 1, "of": 2}, {"n": 2, "of": 2}]}))
    return tmp_path


def figure(words: str, written: str) -> str:
    return f"{SOURCE}It takes <!-- = {words} -->{written}<!-- / --> ms.\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_figure_here_follows_from_the_file_that_it_names(file: Path) -> None:
    assert follow(file.read_text(), ROOT)[1] == ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_reader_of_the_page_sees_nothing_of_the_markers(file: Path) -> None:
    markdown = MarkdownIt("commonmark").enable("table")
    text = file.read_text()
    pages = [markdown.render(text), markdown.render(re.sub("<!--.*?-->", "", text, flags=re.DOTALL))]
    seen = [re.sub(r"\s+", "", re.sub("<!--.*?-->", "", page, flags=re.DOTALL)) for page in pages]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("results/baselines/**/summary.csv")), ids=lambda file: file.parent.name
)
def test_a_summary_is_what_the_records_beside_it_give(file: Path) -> None:
    """So that a document that quotes it says what `sadtrt report` says of the same run."""
    kept, made = (
        list(csv.DictReader(io.StringIO(text))) for text in (file.read_text(), summary_csv(read_run(file.parent)))
    )
    assert [list(row) for row in kept] == [list(row) for row in made]
    for row, other in zip(kept, made, strict=True):
        for name, cell in row.items():
            if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell):
                assert float(cell) == pytest.approx(float(other[name]), rel=1e-6), name
            else:
                assert cell == other[name], name


@pytest.mark.parametrize(
    ("words", "follows"),
    [
        ("run tensorrt fp16 device_ms_median .2f", "5.00"),
        ("run precision=fp16-mixed batch=8 device_ms_median .0f", "30"),
        ("run .tensorrt same s", "8.6.0"),
        ("run pytorch device_ms_median / run tensorrt fp16-mixed batch=1 device_ms_median .1f", "10.0"),
        ("run tensorrt fp16-mixed batch=1 device_ms_median below run tensorrt fp16 device_ms_median .0%", "20%"),
        ('times "a, b" method~PyTorch us min / times ours us .1f', "2.5"),
        ("times\n  us median .0f", "5"),
        ("times us max / 1000 .3f", "0.009"),
        ("times count d", "3"),
    ],
)
def test_words_lead_to_a_value(folder: Path, words: str, follows: str) -> None:
    text, differences = follow(figure(words, "?"), folder)
    assert text == figure(words, follows)
    assert [(one.line, one.written, one.follows) for one in differences] == [(3 + words.count("\n"), "?", follows)]
    assert follow(text, folder) == (text, ())


def test_a_plan_is_a_source_too(folder: Path) -> None:
    (folder / "plan.toml").write_text("[measured]\npsnr_min_db = 76.957\n")
    text = "<!-- source plan: plan.toml measured -->\nIt holds <!-- = plan psnr_min_db .1f -->?<!-- / --> dB.\n"
    assert "-->77.0<!--" in follow(text, folder)[0]


def test_counts_of_several_rows_are_added_up(folder: Path) -> None:
    text = '<!-- source all: check.json -->\nCaught: <!-- = all caught sum "{n} of {of}" -->?<!-- / -->\n'
    assert "-->3 of 4<!--" in follow(text, folder)[0]


def test_the_cells_of_a_table_follow(folder: Path) -> None:
    text, differences = follow(SOURCE + TABLE.replace("{ms}", "3.00"), folder)
    assert text == SOURCE + TABLE.replace("{ms}", "4.00")
    assert [(one.line, one.written, one.follows) for one in differences] == [(7, "**3.00**", "**4.00**")]


def test_a_new_column_is_filled_and_a_dash_stands_where_there_is_no_value(folder: Path) -> None:
    table = "<!-- table run batch=1 -->\n| | dB <!-- psnr_min .1f --> |\n|---|---|\n{rows}<!-- end -->\n"
    rows = "| a <!-- pytorch --> | {} |\n| b <!-- fp16 --> | {} |\n"
    text, _ = follow(SOURCE + table.format(rows=rows.format("", "")), folder)
    assert text == SOURCE + table.format(rows=rows.format("-", "66.5"))


def test_words_are_compared_but_for_those_that_stand_for_no_figure(folder: Path) -> None:
    head = "| | ms <!-- device_ms_median .2f --> | of <!-- stage s --> |\n|---|---|---|\n"
    table = f"<!-- table run batch=1 -->\n{head}{{}}<!-- end -->\n"
    row = "| a <!-- pytorch --> | {} | {} |\n"
    assert not follow(SOURCE + table.format(row.format("reference", "n/a")), folder)[1]
    text, differences = follow(SOURCE + table.format(row.format("identical", "decode")), folder)
    assert [(one.written, one.follows) for one in differences] == [("identical", "40.00"), ("decode", "generator")]
    assert text == SOURCE + table.format(row.format("40.00", "generator"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (figure("other device_ms_median .2f", "1"), "line 3: 'other' is no source here: there are run, times"),
        (figure("run fp17 device_ms_median .2f", "1"), "line 3: nothing of run fits fp17: there are 'stage, runner"),
        (figure("run tensorrt device_ms_median .2f", "1"), "line 3: run tensorrt device_ms_median leads to 3 values"),
        (figure("run pytorch psnr_min .2f", "1"), "line 3: there is no value for run pytorch psnr_min .2f"),
        (figure("run pytorch stage .2f", "1"), "line 3: run pytorch stage .2f cannot be written: 'generator'"),
        (figure('run "pytorch .2f', "1"), "line 3: .* has a quotation mark too many"),
        (SOURCE + "It takes <!-- = run pytorch device_ms_median .2f -->40.00 ms.\n", "line 3: <!-- / --> is missing"),
        (SOURCE + "<!-- = run pytorch device_ms_median .2f -->40.00<!-- / --> ms.\n", "line 3: .* cannot begin a line"),
        (SOURCE + TABLE.replace("<!-- end -->", ""), "line 3: <!-- end --> is missing behind <!-- table run"),
        (SOURCE + TABLE.replace("| **78.2** ", ""), "line 3: a row of the table has 4 cells, its head 5"),
        ("<!-- source run: gone.csv -->\n", "line 1: cannot read .*gone.csv"),
        (SOURCE + SOURCE, "line 3: there are two sources run"),
    ],
)
def test_what_leads_nowhere_is_one_sentence(folder: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        follow(text, folder)
    assert "\n" not in str(raised.value)


def test_check_names_file_and_line_and_docs_writes_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = "run tensorrt fp16 device_ms_median .2f"
    nothing = CliRunner().invoke(app, ["docs", "--check"])
    assert nothing.exit_code != 0, "a check that read nothing says nothing"
    (folder / "README.md").write_text(figure(words, "4.99"))
    checked = CliRunner().invoke(app, ["docs", "--check"])
    assert (checked.exit_code, checked.output) == (1, "README.md, line 3: 4.99 is written, 5.00 follows\n")
    assert CliRunner().invoke(app, ["docs"]).exit_code == 0
    assert (folder / "README.md").read_text() == figure(words, "5.00")
    assert CliRunner().invoke(app, ["docs", "--check"]).exit_code == 0


#: Figures without a marker that may stand in the documents, by their words, and why.
UNMARKED = {
    "under stand-in weights (45 s of fitting: 18.7 dB on held-out pairs)": "how the weights came about",
    "under stand-in weights (70 s of fitting on twelve portraits: 362 steps, 20.7 dB on held-out pairs)": "likewise",
    "Weights of another seed (361 steps, 20.5 dB on held-out pairs; [": "likewise",
    "50 s of fitting on the twelve portraits: 259 steps, 20.4 dB on held-out pairs": "likewise",
    "fitted for 65 s (333 steps, 20.4 dB on held-out pairs; [": "likewise",
    "a uint8 level near white": "arithmetic of half",
    "(95%: )": "an interval's coverage",
    "reads right to at 1 ms and to at 5 ms": "what was asked for",
    "differ more, at 0.05 ms": "where times are short",
    "of one it has a limit of 3.5%": "a limit",
    "a slowdown of 5% may pass": "an example",
    "a limit of 3.5%": "a limit",
    "planted slowdowns of 5% caught": "what was planted",
    "of 4% by longer times": "likewise",
    "slowdowns of 4%": "likewise",
    "of 3%, which is below the limit": "likewise",
    "twice the time in 2% of them": "likewise",
    "of 2% of samples at twice the time": "likewise",
    "so 1 MB for 4 x 16 x 64 x 64 in fp16 and 4 MB for 32 channels": "sizes that follow from the shape",
    "under 20 us (16 grids) and under 10 us (1 grid)": "targets",
}
MEASURED = re.compile(r"\d(?:\s(?:ms|dB|us|mJ|W|MB|levels?)\b|\stimes (?:as|faster)\b|%)")


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name != "baselines"], ids=str)
def test_what_looks_measured_has_a_marker_or_a_reason(file: Path) -> None:
    text = re.sub(r"^    .*$", "", file.read_text(), flags=re.MULTILINE)
    for marked in (r"<!--\s*=.*?<!-- / -->", r"<!--\s*table\s.*?<!-- end -->", "<!--.*?-->", "`[^`]*`"):
        text = re.sub(marked, "", text, flags=re.DOTALL)
    text = " ".join(text.split())
    for known in UNMARKED:
        text = text.replace(known, "")
    assert [text[max(0, one.start() - 60) : one.end()] for one in MEASURED.finditer(text)] == []
