"""Where the sources that hold the answer stand among the retrieved ones."""

from __future__ import annotations

from typing import Any

from promptflow.core import tool


@tool
def rank(sources: list[dict[str, Any]], retrieved: list[dict[str, Any]]) -> dict[str, float | None]:
    """Scores of one row between 0 and 1; all None where no source holds the answer.

    `hit`: at least one relevant source (document and page) was retrieved. `reciprocal_rank`: one
    divided by the place of the first. `recall`: the share of the relevant sources.
    """
    relevant = {_place(source) for source in sources}
    if not relevant:
        return {"hit": None, "reciprocal_rank": None, "recall": None}
    found = [_place(passage) for passage in retrieved]
    first = next((at for at, place in enumerate(found, 1) if place in relevant), None)
    return {
        "hit": float(first is not None),
        "reciprocal_rank": 1 / first if first else 0.0,
        "recall": len(relevant & set(found)) / len(relevant),
    }


def _place(source: dict[str, Any]) -> tuple[str, int | None]:
    return source["source"], source.get("page")
