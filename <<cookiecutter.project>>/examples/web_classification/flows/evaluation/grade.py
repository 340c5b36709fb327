"""Compare the category of one page with the one a person gave it."""

from __future__ import annotations

from typing import Any

from promptflow.core import tool

UNUSABLE = "unusable answer"


@tool
def grade(groundtruth: str, prediction: str, problem: str) -> dict[str, Any]:
    """`correct` is 1 where the categories agree, capitals aside, otherwise 0.

    An answer with a `problem` is never correct: its "None" stands in for something that could not
    be used and must not score on pages whose category is None.
    """
    wanted = groundtruth.strip().casefold()
    given = UNUSABLE if problem else prediction.strip().casefold()
    return {"correct": int(wanted == given), "groundtruth": wanted, "prediction": given}
