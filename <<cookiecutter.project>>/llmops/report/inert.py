"""Data as Markdown in which nothing acts: no HTML, no link, no mention, no formula, no emoji."""

from __future__ import annotations

import html
import re

from llmops.report.words import NONE

TEXT, NAME = 160, 60
_JOINER = "\u2060"  # has no width; breaks what a host looks for after it has read the Markdown
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKUP = re.compile(r"[\\`*~]|(?<!\w)_|_(?!\w)|\](?=\()")
_FOUND_LATER = re.compile(r"@|#(?=\d)|\bGH-(?=\d)|:(?=//)|\bwww(?=\.)|:(?=[\w+-]+:)", re.IGNORECASE)


def text(value: str, longest: int = TEXT) -> str:
    """Any text on one line, cut to so many characters."""
    line = _one_line(value)
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    escaped = _MARKUP.sub(r"\\\g<0>", html.escape(line, quote=False))
    joined = _FOUND_LATER.sub(rf"\g<0>{_JOINER}", escaped)
    return joined.replace("$", "<span>$</span>")  # two of them would be a formula


def code(value: str) -> str:
    """A name as inline code; a long one without its middle."""
    return f"`{short(value.replace('`', chr(39))) or NONE}`"


def short(name: str) -> str:
    """A name on one line; a long one loses its middle, as its ends tell it from others."""
    line = _one_line(name)
    return line if len(line) <= NAME else f"{line[: NAME // 2]}…{line[1 - NAME // 2 :]}"


def _one_line(value: str) -> str:
    return _UNSEEN.sub("", " ".join(value.split()))
