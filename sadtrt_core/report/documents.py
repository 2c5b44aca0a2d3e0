"""The figures of documents: found by their markers, compared with the committed files that they name, written anew.

Markers are HTML comments, which readers of the page do not see. A document names its files, and parts of them:

    <!-- source run: results/baselines/h100-frame/summary.csv -->
    <!-- source mixed: run generator tensorrt fp16-mixed -->

A figure says where its value is, and by a format specification of Python how it is written:

    a frame takes <!-- = mixed device_ms_median .2f -->3.03<!-- / --> ms

Of a table, the opening marker says what all cells have in common, the head of a column and the first cell of a row the
rest. Cells that read `reference` or `n/a` stay, and so do rows and columns that say nothing; a dash is where there is
no value:

    <!-- table run generator -->
    | generator | device ms <!-- device_ms_median .2f --> | GPU MB <!-- gpu_memory_mb .0f --> |
    |---|---:|---:|
    | TensorRT fp16-mixed <!-- tensorrt fp16-mixed --> | 3.03 | 375 |
    <!-- end -->

Words lead to a value one after the other (`_step`); the values of several paths are joined by operators (`_OPERATORS`)
from left to right. In a table, a path that begins with a source's name looks there for what the row says; one that
begins with `..` goes without the row's words, or without those behind a `..` of the row's own, and with a source's name
behind it without any.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sadtrt_core import stats
from sadtrt_core.errors import UserError, shown
from sadtrt_core.files import read_file, read_toml

_LIMIT = 64 * 1024 * 1024
_SOURCE = re.compile(r"<!--\s*source\s+([\w-]+):\s*(.*?)\s*-->", re.DOTALL)
_FIGURE, _FIGURE_END = re.compile(r"<!--\s*=\s(.*?)-->", re.DOTALL), "<!-- / -->"
_TABLE, _TABLE_END = re.compile(r"<!--\s*table\s(.*?)-->", re.DOTALL), "<!-- end -->"
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->")
_BAR = re.compile(r"(?<!\\)\|")

#: Cells that say why there is no figure, and stay as they are.
_WORDS_FOR_FIGURES = frozenset({"reference", "n/a"})
#: What joins two values; `above` and `below` are parts of the second.
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "/": lambda a, b: a / b,
    "above": lambda a, b: a / b - 1,
    "below": lambda a, b: 1 - a / b,
}
#: What makes one value of several; `same` is the one that they all are.
_AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "same": lambda values: values[0] if len(set(values)) == 1 else values,
    "sum": lambda values: _sum(values),
    "min": lambda values: min(map(_number, values)),
    "max": lambda values: max(map(_number, values)),
    "median": lambda values: stats.median(tuple(map(_number, values))),
}


@dataclass(frozen=True)
class Difference:
    """A figure that does not follow: its line in the document, what is written there, and what follows."""

    line: int
    written: str
    follows: str


def follow(text: str, root: Path) -> tuple[str, tuple[Difference, ...]]:
    """A document's text with every marked figure as the files under `root` have it, and what that changes.

    Raises UserError, which names the line, for a marker that is not closed, a file that cannot be read, and words that
    lead to no value or to several.
    """
    sources = _sources(text, root)
    text, figures = _filled(text, _FIGURE, _FIGURE_END, functools.partial(_figure, sources))
    text, cells = _filled(text, _TABLE, _TABLE_END, functools.partial(_table, sources))
    return text, tuple(sorted((*figures, *cells), key=lambda one: one.line))


def _filled(
    text: str, opening: re.Pattern[str], closing: str, fill: Callable[[str, str], tuple[str, list[Difference]]]
) -> tuple[str, list[Difference]]:
    """`text` with what stands between each two markers as `fill` makes it of the first one's words and of itself."""
    parts, differences, done = [], [], 0
    for marker in opening.finditer(text):
        begin, line = marker.end(), text.count("\n", 0, marker.end()) + 1
        end, following = text.find(closing, begin), opening.search(text, begin)
        try:
            if end < 0 or (following is not None and following.start() < end):
                raise UserError(f"{closing} is missing behind {' '.join(marker[0].split())}")
            before = text[text.rfind("\n", 0, marker.start()) + 1 : marker.start()]
            if opening is _FIGURE and not before.strip(" -*+>"):
                raise UserError("a figure's marker cannot begin a line: Markdown would end the paragraph there")
            new, found = fill(marker[1], text[begin:end])
        except UserError as error:
            raise UserError(f"line {line}: {error}") from error
        differences += [Difference(line + one.line, one.written, one.follows) for one in found]
        parts += [text[done:begin], new]
        done = end
    return "".join([*parts, text[done:]]), differences


def _figure(sources: Mapping[str, Any], words: str, written: str) -> tuple[str, list[Difference]]:
    follows = _value(words, lambda path: _find(sources, path))
    if follows is None:
        raise UserError(f"there is no value for {words.strip()}")
    return follows, [] if written == follows else [Difference(0, written, follows)]


def _table(sources: Mapping[str, Any], common: str, written: str) -> tuple[str, list[Difference]]:
    lines, found = written.split("\n"), []
    head = [_COMMENT.search(cell) for cell in _BAR.split(lines[1])] if len(lines) > 1 else []
    for number, line in enumerate(lines[3:], start=3):
        cells = _BAR.split(line)
        named = _COMMENT.search(cells[1]) if len(cells) > 1 else None
        if named is None:
            continue
        if len(cells) != len(head):
            raise UserError(f"a row of the table has {len(cells) - 2} cells, its head {len(head) - 2}")
        path = functools.partial(_cell_path, sources, _words(common), _words(named[1]))
        for column in range(2, len(cells) - 1):
            figure, cell = head[column], cells[column].strip()
            if figure is None or cell in _WORDS_FOR_FIGURES or _COMMENT.search(cell):
                continue
            follows = _value(figure[1], path) or "-"
            if "**" in cells[1] and follows != "-":
                follows = f"**{follows}**"
            if cell != follows:
                found.append(Difference(number, cell, follows))
                cells[column] = f" {follows} "
        lines[number] = "|".join(cells)
    return "\n".join(lines), found


def _cell_path(sources: Mapping[str, Any], common: list[str], row: list[str], path: list[str]) -> Any:
    shared = row[: row.index("..")] if ".." in row else []
    own = [word for word in row if word != ".."]
    if path[:1] == [".."]:
        return _find(sources, path[1:] if path[1:2] and path[1] in sources else [*common, *shared, *path[1:]])
    if path[:1] and path[0] in sources:
        return _find(sources, [path[0], *own, *path[1:]])
    return _find(sources, [*common, *own, *path])


def _words(text: str) -> list[str]:
    try:
        return shlex.split(" ".join(text.split()))  # A paragraph may be wrapped anywhere.
    except ValueError as error:
        raise UserError(f"{text.strip()} has a quotation mark too many") from error


def _value(text: str, find: Callable[[list[str]], Any]) -> str | None:
    """What paths, operators and a format specification make, None where one of the paths leads to nothing."""
    words = _words(text)
    if len(words) < 2:
        raise UserError(f"{text.strip() or 'nothing'} is no path with a format behind it")
    form = words.pop()
    paths: list[list[str]] = [[]]
    operators = []
    for word in words:
        if word in _OPERATORS:
            operators.append(_OPERATORS[word])
            paths.append([])
        else:
            paths[-1].append(word)
    values = [_plain(path[0]) if len(path) == 1 and path[0][0].isdigit() else find(path) for path in paths]
    if any(value is None or value == "" for value in values):
        return None
    value: Any = values[0]
    try:
        for operator, other in zip(operators, values[1:], strict=True):
            value = operator(_number(value), _number(other))
        if "{" in form:
            fields = {name: _plain(one) for name, one in value.items()}
            return re.sub(r"\{(\w+):?([^{}]*)\}", lambda field: format(fields[field[1]], field[2]), form)
        return format(_plain(value), form)
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError) as error:
        raise UserError(f"{text.strip()} cannot be written: {shown(value)} is not of that kind") from error


def _plain(value: Any) -> Any:
    """A value as JSON would have it: the texts of a CSV file that are numbers as numbers."""
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", value):
        return float(value) if re.search(r"[.e]", value) else int(value)
    return value


def _number(value: Any) -> float:
    plain = _plain(value)
    if isinstance(plain, (int, float)):
        return plain
    raise UserError(f"{shown(value)} is no number")


def _sources(text: str, root: Path) -> dict[str, Any]:
    """What the names of a document's `source` comments stand for."""
    sources: dict[str, Any] = {}
    for marker in _SOURCE.finditer(text):
        name, words = marker[1], _words(marker[2])
        try:
            if name in sources:
                raise UserError(f"there are two sources {name}")
            if words[0].endswith((".csv", ".json", ".toml")):
                sources[name] = _read(root / words[0])
                words[0] = name
            sources[name] = _find(sources, words, several=True)
        except UserError as error:
            raise UserError(f"line {text.count(chr(10), 0, marker.start()) + 1}: {error}") from error
    return sources


def _read(path: Path) -> Any:
    if path.suffix == ".toml":
        return read_toml(path)
    content = read_file(path, _LIMIT)
    try:
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
        return json.loads(content)
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _find(sources: Mapping[str, Any], path: list[str], several: bool = False) -> Any:
    """What a source's name and words lead to: one value, or with `several` a list of them. Raises UserError."""
    if not path or path[0] not in sources:
        raise UserError(f"{shown(' '.join(path[:1]))} is no source here: there are {', '.join(sources) or 'none'}")
    values = [sources[path[0]]]
    for number, word in enumerate(path[1:], start=1):
        values = _step(values, word, " ".join(path[:number]))
    values = _flat(values)
    if not several and len(values) != 1:
        raise UserError(f"{' '.join(path)} leads to {len(values)} values: say more")
    return values if several else values[0]


def _flat(values: list[Any]) -> list[Any]:
    return [one for value in values for one in (_flat(value) if isinstance(value, list) else [value])]


def _sum(values: list[Any]) -> Any:
    """The sum of numbers; of rows a row, of those of their fields that are numbers."""
    if values and isinstance(values[0], dict):
        numbers = [name for name, value in values[0].items() if isinstance(value, (int, float))]
        return {name: sum(_number(row[name]) for row in values) for name in numbers}
    return math.fsum(map(_number, values))


def _step(values: list[Any], word: str, path: str) -> list[Any]:
    """The next step: the rows that a word fits; or else the values of that key or column; or an aggregate of all.

    A row fits a word that is one of its values, `key=value`, and `key~part` of a value. `.key` is a key in any case:
    a column of summary.csv is called tensorrt as well.
    """
    values = _flat(values)
    rows = [value for value in values if isinstance(value, dict)]
    key, sign, part = re.fullmatch(r"([^=~]*)([=~]?)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    if sign == "=":
        found = [row for row in rows if key in row and str(row[key]) == part]
    elif sign == "~":
        found = [row for row in rows if part in str(row.get(key, ""))]
    else:
        found = [row for row in rows if any(value == word for value in row.values())]
    key = word.removeprefix(".")
    found = found or [row[key] for row in rows if key in row]
    if not found and word in _AGGREGATES and values:
        several = list(rows[0].values()) if len(values) == len(rows) == 1 else values
        found = [_AGGREGATES[word](several)]
    if not found:
        known = ", ".join(rows[0]) if rows else "no keys"
        raise UserError(f"nothing of {path} fits {word}: there are {shown(known, 300)}")
    return found
