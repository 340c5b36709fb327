"""What stands in a document: its text in sections, each with its heading or its page."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmops.errors import UserError

HIDDEN = ("script", "style", "noscript", "template", "svg", "head")
BLOCKS = (
    *("address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "fieldset", "figure"),
    *("footer", "form", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section"),
    *("table", "tr", "ul"),
)
CELLS = ("td", "th", "br")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
# Stands before a heading in the text of an HTML page; no page has this character.
MARK = "\ue000"
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A stretch of a document: paragraphs with blank lines between, under one heading.

    `heading` is the whole way to it, as `Leave > Parental leave`; `page` counts from 1.
    """

    text: str
    heading: str = ""
    page: int | None = None


class UnreadableError(Exception):
    """What is wrong with a document, and what to do, in words."""


def read(path: Path) -> list[Section]:
    """The sections of a document that hold text, in its order.

    Raises:
        UserError: the file is not what its name says, is encrypted, or holds no text.
    """
    try:
        sections = [part for part in READERS[path.suffix.lower()](path) if part.text.strip()]
    except UnreadableError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check its rights.") from error
    if not sections:
        raise UserError(f"{path}: holds no text. Fill it or take it out of the folder.")
    return sections


def text(path: Path) -> Iterator[Section]:
    """A plain text is one section."""
    yield Section(_decoded(path))


def markdown(path: Path) -> Iterator[Section]:
    """A section a heading; the block of properties at the top (front matter) is no text."""
    from markdown_it import MarkdownIt

    content = _FRONT_MATTER.sub("", _decoded(path))
    lines, trail, start = content.split("\n"), _Trail(), 0
    tokens = MarkdownIt().parse(content)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            yield Section("\n".join(lines[start : token.map[0]]), trail.path)
            trail.enter(int(token.tag[1:]), inline.content)
            start = token.map[1]
    yield Section("\n".join(lines[start:]), trail.path)


def html(path: Path) -> Iterator[Section]:
    """A section a heading, of what a reader of the page sees."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(_decoded(path), "html.parser")
    for tag in soup(HIDDEN):
        tag.decompose()
    _lay_out(soup)
    before, *parts = soup.get_text().split(MARK)
    yield Section(before)
    trail = _Trail()
    for part in parts:
        heading, _, body = part.partition("\n")
        trail.enter(int(heading[0]), heading[1:])
        yield Section(body, trail.path)


def _lay_out(soup: Any) -> None:
    """Turn the page's blocks and headings into blank lines and marked lines of its text."""
    from bs4.element import PreformattedString  # comments, the document's type and the like

    for string in soup.find_all(string=True):
        if isinstance(string, PreformattedString):
            string.extract()
        elif string.find_parent("pre") is None:
            string.replace_with(re.sub(rf"[\s{MARK}]+", " ", string))
        else:
            string.replace_with(string.replace(MARK, ""))
    for tag in soup(HEADINGS):
        title = " ".join(tag.get_text().split())
        tag.replace_with(f"\n\n{MARK}{tag.name[1]}{title}\n\n" if title else "\n\n")
    for tag in soup(BLOCKS):
        tag.insert_before("\n\n")
        tag.insert_after("\n\n")
    for tag in soup(CELLS):
        tag.insert_after("\n" if tag.name == "br" else " ")


def pdf(path: Path) -> Iterator[Section]:
    """A section a page; one page is held in memory at a time."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings name no file
    content = path.read_bytes()
    if not content:
        raise UnreadableError("the file is empty (0 bytes). Save it again or take it out.")
    try:
        reader = PdfReader(io.BytesIO(content))
        locked = reader.is_encrypted and not reader.decrypt("")
    except Exception as error:
        if "cryptography" in str(error):
            raise UnreadableError(_LOCKED) from error
        raise UnreadableError(_broken(error)) from error
    if locked:
        raise UnreadableError(_LOCKED)
    yield from _pages(reader)


def _pages(reader: Any) -> Iterator[Section]:
    empty = True
    try:
        for number, page in enumerate(reader.pages, 1):
            # Broken fonts give halves of characters, which nothing can store.
            found = page.extract_text().encode(errors="replace").decode().replace("\0", "")
            empty = empty and not found.strip()
            yield Section(found, page=number)
            # The library keeps what it has parsed: a long document would fill the memory.
            reader.resolved_objects.clear()
    except GeneratorExit:
        raise
    except Exception as error:
        raise UnreadableError(_broken(error)) from error
    if empty:
        raise UnreadableError(
            "holds no text: a scan, or empty pages. Let a program recognise its text (OCR) first, "
            "or take it out."
        )


_LOCKED = "is encrypted. Save it without a password, or take it out."


def _broken(error: Exception) -> str:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    return f"cannot be read as PDF ({said}). Save it again or take it out."


READERS: dict[str, Callable[[Path], Iterator[Section]]] = {
    ".txt": text,
    ".md": markdown,
    ".html": html,
    ".htm": html,
    ".pdf": pdf,
}


class _Trail:
    """The headings above the place that a reader is at."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """Go on below a heading; those of its level and deeper end."""
        self._open = [one for one in self._open if one[0] < level]
        self._open.append((level, " ".join(title.split())))

    @property
    def path(self) -> str:
        """All of them, outermost first."""
        return " > ".join(title for _, title in self._open if title)


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"not UTF-8 (byte {error.start + 1}). Save it as UTF-8.") from error
    return content.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
