"""Makes any text safe to stand in a Markdown cell or an XML document, and figures short enough to read."""

from __future__ import annotations

import math
import re


def markdown_cell(text: str) -> str:
    """Text that stays text in a Markdown table or list: no pipes, line breaks, HTML or mentions."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", flat)


def xml_text(text: str) -> str:
    """`text` without the characters that XML 1.0 cannot hold even escaped."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def milliseconds(value: float | None) -> str:
    """Four significant digits without an exponent, or a dash."""
    if value is None:
        return "-"
    digits = 3 if value <= 0 else max(0, min(6, 3 - math.floor(math.log10(value))))
    return f"{value:.{digits}f}"


def plain(value: float) -> str:
    """Four significant digits, four decimals below one, without an exponent; thousands separated by commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}".rstrip("0").rstrip(".")


def megabytes(value: float | None) -> str:
    """Megabytes with one decimal below ten, or a dash."""
    return "-" if value is None else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def decibels(value: float | None) -> str:
    """One decimal, "NaN", or a dash."""
    return "-" if value is None else "NaN" if math.isnan(value) else f"{value:.1f}"
