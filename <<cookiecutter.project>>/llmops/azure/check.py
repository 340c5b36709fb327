"""Whether a deployed flow answers: the sample request, sent to it and to each deployment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmops import probe, rollout
from llmops.azure import specification, workspace
from llmops.azure.online import Online
from llmops.azure.specification import Case, Subject
from llmops.errors import FAILED, OK
from llmops.files import write_atomically
from llmops.probe import Verdict
from llmops.rollout import Found
from llmops.settings import Settings

REPORT = Path("reports/endpoint.json")
TIMES = 3


def check(settings: Settings) -> int:
    """Send the sample request to the endpoint and to each deployment with traffic; 2 if one fails.

    Raises:
        UserError: as `deploy`.
    """
    case = specification.read(settings)
    name = case.entry.ENDPOINT_NAME
    with workspace.explained(case.where):
        online = Online(case.where, workspace.client(case.where))
        if (found := online.find(name)) is None:
            raise rollout.absent(name)
        tester = Tester(online, case)
        verdicts = {"": tester.ask(found.url, "", TIMES)}
        verdicts |= {d: tester.ask(found.url, d, TIMES) for d in found.traffic}
    return report(case, found, verdicts)


def report(case: Subject[Any], found: Found, verdicts: Mapping[str, Verdict]) -> int:
    """Write and print the verdicts, by deployment ("" for the whole); 2 if one is a failure."""
    _write(case, found, verdicts)
    print(_verdict_table(found, verdicts))
    return FAILED if any(v.problem for v in verdicts.values()) else OK


@dataclass
class Tester:
    """Sends the case's request to an endpoint, with its key, which never leaves this object."""

    online: Online
    case: Case
    _key: str = field(default="", repr=False)

    def ask(self, url: str, deployment: str, times: int = 1) -> Verdict:
        """The verdict on one deployment, or on the endpoint where none is named."""
        if not self._key:
            self._key = self.online.key(self.case.entry.ENDPOINT_NAME)
        # The SDK's own `invoke` keeps the deployment's header for later calls.
        headers = {"Authorization": f"Bearer {self._key}"}
        if deployment:
            headers["azureml-model-deployment"] = deployment
        outputs = self.case.flow.outputs
        verdict = probe.ask(url, headers, self.case.request, outputs, times)
        return replace(verdict, problem=self.case.mask(verdict.problem))


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
