from __future__ import annotations

from promptflow.core import log_metric, tool


@tool
def name(longest: int) -> str:
    log_metric("longest", longest)
    return str(longest)
