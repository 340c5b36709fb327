"""Score answers: a plain Python flow, one function for a row and one for all of them."""

from __future__ import annotations

from statistics import fmean


def run(ground_truth: str, answer: str) -> dict[str, float]:
    """Score one row; upper and lower case do not count.

    `exact_match` is 1 when the answer is the ground truth and nothing else, `contains` is 1 when
    the ground truth occurs in the answer.
    """
    truth, said = ground_truth.strip().casefold(), answer.strip().casefold()
    return {"exact_match": float(said == truth), "contains": float(truth in said)}


def aggregate(rows: list[dict[str, float]]) -> dict[str, float]:
    """Turn the scores of all rows, as `run` returned them, into metrics: the mean of each."""
    if not rows:
        return {}
    return {name: fmean(row[name] for row in rows) for name in rows[0]}
