"""What goes wrong in ways that a person can do something about, each in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from unicodedata import category

#: Unicode's control characters, format characters (of which some turn the direction of writing) and surrogates.
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})
#: Characters that are kept at either end of a very long sentence.
_END = 700


def printable(text: str) -> str:
    """`text` with a question mark for every character that a terminal would obey or that no encoding has."""
    return "".join("?" if category(one) in _UNSEEN and one not in "\n\t" else one for one in text)


def shown(value: object, most: int = 60) -> str:
    """`value` as Python writes it, at most so many characters, for a sentence about what a file holds."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # A number of ten thousand digits, a list in a list in a list.
        return "a value too long to show"
    return text if len(text) <= most else f"{text[: most - 3]}..."


class UserError(ValueError):
    """A file, option or argument that cannot be used: the sentence names it, what was expected and what to do.

    It may quote what is in a file or an option, so it is made `printable`, and of what is very long the middle is left
    out.
    """

    def __init__(self, sentence: str) -> None:
        if len(sentence) > 4 * _END:
            sentence = f"{sentence[:_END]} ... {sentence[-_END:]}"
        super().__init__(printable(sentence))


class BuildError(RuntimeError):
    """No engine or library could be built: the sentence says where and why."""


class EngineRefused(RuntimeError):
    """The engine does not fit this TensorRT, GPU or stage; another build may."""


@dataclass(frozen=True)
class Unavailable:
    """Why something is not to be had on this machine, and the command that fixes it where there is one."""

    reason: str
    fix: str | None = None

    def __str__(self) -> str:
        return f"{self.reason} ({self.fix})" if self.fix else self.reason
