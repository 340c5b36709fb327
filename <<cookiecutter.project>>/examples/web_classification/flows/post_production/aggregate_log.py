"""The metrics of a production log."""

from __future__ import annotations

from typing import Any

from promptflow.core import log_metric, tool


@tool
def aggregate_log(checks: list[dict[str, Any]]) -> None:
    """Log shares from 0 to 1 over all lines, and the mean feedback of those that have any.

    `answered_share`: a category came back. `valid_share`: category and evidence are both allowed.
    `none_share`: the category was None, a sign of pages that the flow does not know.
    """
    if not checks:
        return
    log_metric("answered_share", _mean([check["answered"] for check in checks]))
    valid = [check["category_valid"] * check["evidence_valid"] for check in checks]
    log_metric("valid_share", _mean(valid))
    log_metric("none_share", _mean([check["none"] for check in checks]))
    feedback = [check["feedback"] for check in checks if check["feedback"] is not None]
    if feedback:
        log_metric("feedback_mean", _mean(feedback))


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
