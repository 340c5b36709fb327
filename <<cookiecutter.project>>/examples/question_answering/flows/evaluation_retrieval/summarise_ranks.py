"""Aggregate the ranks of all rows into metrics."""

from __future__ import annotations

from statistics import fmean

from promptflow.core import log_metric, tool

METRICS = {"hit_rate": "hit", "mrr": "reciprocal_rank", "recall": "recall"}


@tool
def summarise_ranks(ranks: list[dict[str, float | None] | None]) -> dict[str, int]:
    """Log each metric as the mean over the questions that can be answered.

    The result says how many rows there were, and how many of them count.
    """
    ranked = [rank for rank in ranks if rank is not None and rank["hit"] is not None]
    for metric, name in METRICS.items():
        if ranked:
            log_metric(metric, fmean(rank[name] or 0.0 for rank in ranked))
    return {"rows": len(ranks), "answerable": len(ranked)}
