"""Take the program out of the model's reply."""

from __future__ import annotations

import json
import re
import textwrap

from promptflow.core import tool

FENCE = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


@tool
def refine(reply: str) -> str:
    """Return the program in `reply`, or an empty string where there is none.

    The reply is a JSON object with the key `code`, or a text with one or more fenced blocks (the
    first one marked as Python, else the first), or the bare program. A fence that was never closed
    ends with the reply.
    """
    blocks = FENCE.findall(reply)
    marked = [body for language, body in blocks if language.lower() in ("python", "py", "python3")]
    for text in (reply, *(body for _, body in blocks)):
        code = _from_json(text)
        if code is not None:
            return _clean(code)
    return _clean((marked or [body for _, body in blocks] or [reply])[0])


def _from_json(text: str) -> str | None:
    """The value of `code` where the text is a JSON object that has one, else null."""
    try:
        document = json.loads(text, strict=False)
    except ValueError:
        return None
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, str) else None


def _clean(code: str) -> str:
    fenced = FENCE.search(code)
    return textwrap.dedent(fenced.group(2) if fenced else code).strip()
