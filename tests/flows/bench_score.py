"""A typical evaluation: counts of a row, and five metrics over all rows."""

from __future__ import annotations

from typing import Any

Counts = dict[str, float]


def run(ground_truth: str, entities: list[str]) -> Counts:
    """Hits, found, expected, and two scores of the row."""
    expected = {part.strip() for part in ground_truth.split(",") if part.strip()}
    found = set(entities)
    hits = len(expected & found)
    return {
        "hits": hits,
        "found": len(found),
        "expected": len(expected),
        "exact": float(expected == found),
        "length": len(" ".join(entities)),
    }


def aggregate(rows: list[dict[str, Any]]) -> Counts:
    """Precision, recall and F1 over all rows together, and two means."""
    hits, found, expected, exact, length = (
        sum(row[name] for row in rows) for name in ("hits", "found", "expected", "exact", "length")
    )
    precision, recall = hits / max(found, 1), hits / max(expected, 1)
    both = precision + recall
    return {
        "f1": 2 * precision * recall / both if both else 0.0,
        "precision": precision,
        "recall": recall,
        "exact_match": exact / len(rows),
        "length": length / len(rows),
    }
