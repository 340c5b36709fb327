"""What was said before the question, for the prompt that makes it stand alone."""

from __future__ import annotations

from typing import Any

TURNS = 5
CHARACTERS = 600


def history(chat_history: list[dict[str, Any]]) -> dict[str, Any]:
    """The last turns as lines, the oldest first, and whether there are any.

    A turn is {"inputs": {"question": …}, "outputs": {"answer": …}}, as prompt flow's chat keeps it.
    Each text becomes one line, so that it cannot begin a message of its own in the prompt.
    """
    lines = []
    for turn in (chat_history or [])[-TURNS:]:
        lines.append(f"Visitor: {_line(turn['inputs']['question'])}")
        lines.append(f"Museum: {_line(turn['outputs']['answer'])}")
    return {"follow_up": bool(lines), "turns": "\n".join(lines)}


def _line(text: str) -> str:
    return " ".join(str(text).split())[:CHARACTERS]
