"""The two pages, each one file that asks nothing of the network but this server."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

FOLDER = Path(__file__).parent
SHARED = ("<!-- page.html -->\n", "/* page.css */", "/* page.js */")
"""Where a page takes in the parts that both have: their head, style and functions."""


@dataclass(frozen=True)
class Page:
    """A page and the policy that lets its own style and script run, and nothing else."""

    content: bytes
    policy: str

    def response(self) -> Response:
        """200 with the page."""
        headers = {
            "content-security-policy": self.policy,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        return Response(self.content, headers=headers, media_type="text/html")


def _page(name: str) -> Page:
    text = (FOLDER / name).read_text(encoding="utf-8")
    for place in SHARED:
        text = text.replace(place, (FOLDER / place.split()[1]).read_text(encoding="utf-8"))
    allowed = {
        kind: " ".join(map(_hash, re.findall(f"(?s)<{tag}>(.*?)</{tag}>", text)))
        for kind, tag in (("style-src", "style"), ("script-src", "script"))
    }
    policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
    policy += "form-action 'none'; frame-ancestors 'none'; "
    return Page(text.encode(), policy + "; ".join(f"{k} {v}" for k, v in allowed.items()))


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


TEST = _page("test.html")
DOCS = _page("docs.html")
