"""A module name that the standard flow has, too."""

from __future__ import annotations

ORIGIN = "grade"


def same(found: str, truth: str) -> float:
    """1 where both say the same."""
    return float(found == truth)
