"""Aggregate the scores of all rows into metrics."""

from __future__ import annotations

from statistics import fmean

from promptflow.core import log_metric, tool


@tool
def summarise(scores: list[dict[str, float] | None]) -> dict[str, int]:
    """Log the mean of each score as a metric.

    A row without a score (None) is neither a 0 nor a 1: it stays out of the means. The result says
    how many rows there were and how many of them were scored.
    """
    scored = [score for score in scores if score is not None]
    for name in scored[0] if scored else ():
        log_metric(name, fmean([score[name] for score in scored]))
    return {"rows": len(scores), "scored": len(scored)}
