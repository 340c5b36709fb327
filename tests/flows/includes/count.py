from __future__ import annotations

from promptflow.core import log_metric, tool


@tool
def count(stems: list[str], levels: list[int]) -> int:
    log_metric("levels", sum(levels))
    return max(len(stem) for stem in stems)
