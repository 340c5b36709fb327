"""The text of a web page: from the pages shipped with the data, or from the public web."""

from __future__ import annotations

import json
import os
from pathlib import Path

from page_text import one_line, page_text
from promptflow.core import tool
from public_web import read_public_page

# A flow that is packed for a server has its pages beside it (additional_includes).
HERE = Path(__file__).resolve().parent
FOLDERS = (HERE / "pages", HERE.parent.parent / "data" / "pages")
FOLDER_VARIABLE = "WEB_CLASSIFICATION_PAGES"
MAX_CHARACTERS = 8_000


@tool
def fetch_text_content_from_url(url: str) -> str:
    """The page's words on one line, at most `MAX_CHARACTERS` of them so that they fit the model.

    Raises:
        ValueError: the URL is not that of a public web page, or the page cannot be read.
    """
    html = shipped_page(url)
    if html is not None:
        text = page_text(html)
    else:
        page = read_public_page(url)
        text = page_text(page.content) if page.is_html else one_line(page.content)
    return text[:MAX_CHARACTERS] or "(the page has no text)"


def shipped_page(url: str) -> str | None:
    """The HTML that the index of the pages folder names for exactly this URL, if it does."""
    for folder in _folders():
        index = folder / "index.json"
        if index.is_file():
            name = json.loads(index.read_text(encoding="utf-8")).get(url)
            return (folder / name).read_text(encoding="utf-8") if name else None
    return None


def _folders() -> tuple[Path, ...]:
    own = os.environ.get(FOLDER_VARIABLE)
    return (Path(own),) if own else FOLDERS
