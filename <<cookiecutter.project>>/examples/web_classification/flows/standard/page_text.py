"""What a reader sees of an HTML page, as one line of text."""

from __future__ import annotations

from html.parser import HTMLParser

HIDDEN = {"script", "style", "noscript", "template", "svg"}
INLINE = {"a", "abbr", "b", "code", "em", "i", "mark", "small", "span", "strong", "sub", "sup", "u"}


def page_text(html: str) -> str:
    """The title, the description and the visible words of `html`.

    All white space becomes single blanks: a page can then not begin a line of the prompt, and with
    it a message of its own.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return one_line("".join(reader.pieces))


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._separate(tag)
        values = dict(attrs)
        if tag in HIDDEN:
            self._hidden += 1
        elif tag == "meta" and values.get("name") == "description":
            self.pieces.append(f"{values.get('content') or ''} ")

    def handle_endtag(self, tag: str) -> None:
        self._separate(tag)
        if tag in HIDDEN and self._hidden:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)

    def _separate(self, tag: str) -> None:
        if tag not in INLINE:
            self.pieces.append(" ")
