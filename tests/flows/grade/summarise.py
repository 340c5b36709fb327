from __future__ import annotations

from promptflow.core import log_metric, tool


@tool
def summarise(
    hits: list[float], grades: list[dict[str, float]], weights: list[float], label: str
) -> dict[str, float]:
    metrics = {
        "accuracy": sum(hits) / len(hits),
        "weighted": sum(grade["weighted"] for grade in grades) / sum(weights),
        f"rows_{label}": len(hits),
    }
    for name, value in metrics.items():
        log_metric(name, value)
    return metrics
