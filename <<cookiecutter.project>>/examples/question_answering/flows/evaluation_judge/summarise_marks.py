"""Aggregate the judge's marks into metrics."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from promptflow.core import log_metric, tool


@tool
def summarise_marks(marks: list[dict[str, Any] | None]) -> dict[str, int]:
    """Log the mean of each mark, and how many replies of the judge could not be read.

    Rows without a mark stay out of the means: answers that decline, and unreadable replies. The
    result says how many rows there were and how many have marks.
    """
    rows = [row for row in marks if row is not None]
    judged = [row for row in rows if row["groundedness"] is not None]
    for name in ("groundedness", "relevance") if judged else ():
        log_metric(name, fmean(row[name] for row in judged))
    if rows:
        log_metric("unreadable_marks", sum(bool(row["problem"]) for row in rows))
    return {"rows": len(marks), "judged": len(judged)}
