"""What is made of the committed baselines stays as it was when the golden files were made, byte for byte."""

from __future__ import annotations

import pytest
from golden_texts import DIGESTS, GOLDEN, ROOT, digest, is_kept_whole, texts

#: Texts that differ from the earlier ones on purpose, and why; their golden files are those of the newer text.
DELIBERATE: dict[str, str] = {}


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return dict(texts(ROOT / "results" / "baselines"))


def first_difference(name: str, old: str, new: str) -> str:
    before, after = old.splitlines(), new.splitlines()
    for number, (was, now) in enumerate(zip(before, after, strict=False), 1):
        if was != now:
            return f"{name} differs first in line {number}: {was!r} became {now!r}"
    return f"{name} has {len(after)} lines where it had {len(before)}"


def test_reports_and_gate_decisions_are_those_of_before(made: dict[str, str]) -> None:
    lines = (GOLDEN / DIGESTS).read_text().splitlines()
    golden = {name: value for value, name in (line.split(" ", 1) for line in lines)}
    assert list(made) == list(golden)
    wrong = []
    for name, text in made.items():
        if is_kept_whole(name):
            old = (GOLDEN / name).read_text()
            if old != text:
                wrong.append(first_difference(name, old, text))
        elif digest(text) != golden[name]:
            wrong.append(f"{name} is another text, which now begins {text[:200]!r}")
    assert not wrong, "\n".join(wrong)
    assert set(DELIBERATE) <= set(golden)
