"""Aggregate the checks of all rows into metrics."""

from __future__ import annotations

from statistics import fmean

from promptflow.core import log_metric, tool

METRICS = {
    "declined_share": "declined",
    "cited_share": "cited",
    "made_up_share": "made_up",
    "feedback_mean": "feedback",
}


@tool
def summarise_checks(checks: list[dict[str, float | None] | None]) -> dict[str, int]:
    """Log each metric as the mean over the rows that have a value for it.

    The result says for each metric how many rows that were.
    """
    counts: dict[str, int] = {}
    for metric, name in METRICS.items():
        found = [row[name] for row in checks if row is not None]
        values = [value for value in found if value is not None]
        if values:
            log_metric(metric, fmean(values))
        counts[metric] = len(values)
    return counts
