"""Aggregate the scores of all rows into metrics."""

from __future__ import annotations

from promptflow.core import log_metric, tool


@tool
def aggregate(scores: list[dict[str, int]]) -> dict[str, float]:
    """Log and return `accuracy` and `error_share`, both from 0 to 1, over the scored rows."""
    if not scores:
        return {}
    metrics = {
        "accuracy": sum(score["correct"] for score in scores) / len(scores),
        "error_share": sum(score["error"] for score in scores) / len(scores),
    }
    for name, value in metrics.items():
        log_metric(name, value)
    return metrics
