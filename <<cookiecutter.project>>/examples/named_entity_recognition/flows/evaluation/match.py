"""Compare the entities of one row with the ground truth."""

from __future__ import annotations

from promptflow.core import tool


@tool
def match(ground_truth: str, entities: list[str]) -> dict[str, float]:
    """Score one row; each score lies between 0 and 1.

    Entities are the same when they differ only in case and blanks. Where neither side has any
    entity, nothing could be done better: every score is 1.
    """
    expected = _normalised(ground_truth.split(","))
    found = _normalised(entities)
    if not expected and not found:
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0, "exact_match": 1.0}
    hits = len(expected & found)
    return {
        "precision": hits / len(found) if found else 0.0,
        "recall": hits / len(expected) if expected else 0.0,
        "f1": 2 * hits / (len(expected) + len(found)),
        "exact_match": float(expected == found),
    }


def _normalised(entities: list[str]) -> set[str]:
    return {" ".join(entity.casefold().split()) for entity in entities} - {""}
