"""Does the answer say honestly what it rests on?"""

from __future__ import annotations

from promptflow.core import tool

EVIDENCE = ("url", "text content", "both")


@tool
def compare_evidence(groundtruth: str, prediction: str) -> dict[str, int]:
    """1 or 0: is the evidence one of the three allowed words, and is it the one a person chose?"""
    given = prediction.strip().casefold()
    return {
        "evidence_valid": int(given in EVIDENCE),
        "evidence_match": int(given == groundtruth.strip().casefold()),
    }
