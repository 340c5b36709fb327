"""Aggregate the lines of the production log into metrics."""

from __future__ import annotations

from promptflow.core import log_metric, tool


@tool
def aggregate(rows: list[dict[str, float | None]]) -> dict[str, float]:
    """Log and return `error_share`, `numeric_share` (0 to 1) and `feedback_mean` (1 to 5).

    The mean covers the lines with feedback and is left out where there is none.
    """
    feedback = [row["feedback"] for row in rows if row["feedback"] is not None]
    metrics = {}
    if rows:
        metrics["error_share"] = sum(row["error"] or 0 for row in rows) / len(rows)
        metrics["numeric_share"] = sum(row["numeric"] or 0 for row in rows) / len(rows)
    if feedback:
        metrics["feedback_mean"] = sum(feedback) / len(feedback)
    for name, value in metrics.items():
        log_metric(name, value)
    return metrics
