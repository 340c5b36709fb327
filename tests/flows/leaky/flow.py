"""Quotes its key in an error, as some clients do."""

from __future__ import annotations

import os


def run(text: str) -> dict[str, str]:
    if len(text) > 1:
        raise PermissionError(f"the key {os.environ['AOAI_API_KEY']} is not the right one")
    return {"text": text}
