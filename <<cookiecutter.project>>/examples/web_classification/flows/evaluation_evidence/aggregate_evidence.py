"""The metrics of all pages together."""

from __future__ import annotations

from promptflow.core import log_metric, tool


@tool
def aggregate_evidence(results: list[dict[str, int]]) -> None:
    """Log the shares `evidence_valid` and `evidence_match`, from 0 to 1, of the pages compared."""
    if not results:
        return
    for name in ("evidence_valid", "evidence_match"):
        log_metric(name, sum(result[name] for result in results) / len(results))
