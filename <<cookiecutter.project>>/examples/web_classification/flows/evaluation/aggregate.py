"""The metrics of all pages together."""

from __future__ import annotations

from typing import Any

from promptflow.core import log_metric, tool


@tool
def aggregate(grades: list[dict[str, Any]]) -> None:
    """Log `accuracy` and `macro_f1`, both from 0 to 1, over the pages that were graded.

    `macro_f1` is the mean F1 of the categories that occur in the ground truth, so that a rare
    category counts as much as a common one.
    """
    if not grades:
        return
    log_metric("accuracy", sum(grade["correct"] for grade in grades) / len(grades))
    categories = sorted({grade["groundtruth"] for grade in grades})
    log_metric("macro_f1", sum(_f1(category, grades) for category in categories) / len(categories))


def _f1(category: str, grades: list[dict[str, Any]]) -> float:
    hits = sum(grade["correct"] for grade in grades if grade["groundtruth"] == category)
    actual = sum(grade["groundtruth"] == category for grade in grades)
    predicted = sum(grade["prediction"] == category for grade in grades)
    return float(2 * hits / (actual + predicted))
