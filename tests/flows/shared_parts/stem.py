from __future__ import annotations


def stem(text: str, endings: list[str]) -> str:
    """The text without its ending, if it has one of these."""
    return next((text.removesuffix(end) for end in endings if text.endswith(end)), text)
