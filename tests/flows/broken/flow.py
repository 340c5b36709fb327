"""An evaluation whose aggregation fails."""

from __future__ import annotations


def run(text: str) -> dict[str, float]:
    return {"length": len(text)}


def aggregate(rows: list[dict[str, float]]) -> dict[str, float]:
    raise ArithmeticError(f"cannot add up {len(rows)} rows")
