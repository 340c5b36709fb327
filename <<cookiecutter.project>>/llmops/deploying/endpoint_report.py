"""`reports/endpoint.json`: what an endpoint and its deployments answered to the sample request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops.deploying.probe import Verdict
from llmops.deploying.rollout import Found
from llmops.deploying.subject import Subject
from llmops.errors import FAILED, OK
from llmops.files import write_atomically

REPORT = Path("reports/endpoint.json")
TIMES = 3


def report(case: Subject[Any], found: Found, verdicts: Mapping[str, Verdict]) -> int:
    """Write and print the verdicts, by deployment ("" for the whole); 2 if one is a failure."""
    _write(case, found, verdicts)
    print(_verdict_table(found, verdicts))
    return FAILED if any(v.problem for v in verdicts.values()) else OK


def _write(case: Subject[Any], found: Found, verdicts: Mapping[str, Verdict]) -> None:
    failed = any(v.problem for v in verdicts.values())
    document = {
        "endpoint": found.name,
        "env": case.env,
        "kind": case.kind,
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "scoring_uri": found.url,
        "traffic": found.traffic,
        "verdict": "fail" if failed else "pass",
        "checks": [
            {
                "deployment": target or None,
                "status": verdict.status,
                "latency_s": {"p50": verdict.latency_s},
                "missing": verdict.missing,
                "problem": verdict.problem,
            }
            for target, verdict in verdicts.items()
        ],
    }
    with write_atomically(REPORT) as file:
        file.write(json.dumps(document, indent=2) + "\n")


def _verdict_table(found: Found, verdicts: Mapping[str, Verdict]) -> str:
    from tabulate import tabulate

    rows = [
        (
            target or f"{found.name} (endpoint)",
            f"{found.traffic[target]}%" if target else "",
            verdict.status or "-",
            "-" if verdict.latency_s is None else f"{verdict.latency_s:.3f} s",
            verdict.problem or "ok",
        )
        for target, verdict in verdicts.items()
    ]
    return tabulate(rows, headers=("", "traffic", "status", f"p50 of {TIMES}", "verdict"))
