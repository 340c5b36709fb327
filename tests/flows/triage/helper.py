"""A module name that the evaluation flow has, too."""

from __future__ import annotations

ORIGIN = "triage"


def urgency(text: str, level: int) -> str:
    """High above level 3; a text that begins with Broken cannot be judged."""
    if text.startswith("Broken"):
        raise ValueError(f"cannot judge {text!r}")
    return "high" if level > 3 or text.endswith("!") else "low"
