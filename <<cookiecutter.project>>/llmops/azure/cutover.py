"""`make cutover` in Azure: what both deployments answered is read from what Azure ML collects."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.azure import collected, deploy, specification, workspace
from llmops.azure.check import Tester
from llmops.azure.collected import NothingCollectedError
from llmops.azure.deploy import Rollout
from llmops.azure.online import Online
from llmops.azure.specification import Case
from llmops.deploying import cutover as cutovers
from llmops.deploying.probe import Verdict
from llmops.deploying.rolling import follow
from llmops.deploying.rollout import Found, Plan
from llmops.files import write_atomically
from llmops.monitoring import online
from llmops.monitoring.online import REQUESTS
from llmops.monitoring.streams import FAILED, ID, REFUSED, Seen
from llmops.settings import Period, Settings

COLLECTED = "azureml://datastores/workspaceblobstore/paths/modelDataCollector"
"""Where Azure ML's data collector writes, unless a deployment says otherwise."""
CALLERS = {
    *("invalid_json", "invalid_inputs", "not_acceptable", "unsupported_media_type"),
    *("too_large", "too_slow", "not_found"),
}
"""What our server says where the caller is at fault; a record has no status."""


def cutover(settings: Settings) -> int:
    """Lead traffic one step on, as `llmops.deploying.cutover` says.

    Raises:
        UserError: something the user must fix, in the configuration or in Azure.
    """
    case = specification.read(settings)
    with workspace.explained(case.where):
        client = Online(case.where, workspace.client(case.where))
        return cutovers.run(settings, Site(case, settings, client))


@dataclass(frozen=True)
class Site:
    """An endpoint in Azure, for a cut-over."""

    case: Case
    settings: Settings
    online: Online
    poll_s: float = 30.0
    collects_only: bool = True

    def found(self) -> Found | None:
        """The endpoint when nothing changes it any more."""
        return self.online.settled(self.case.entry.ENDPOINT_NAME, self.settings.wait_s)

    def ask(self, found: Found, deployment: str) -> Verdict:
        """The verdict on one deployment."""
        return Tester(self.online, self.case).ask(found.url, deployment)

    def restart(self, found: Found) -> Found:
        """Count from now on what is answered by this split of the traffic."""
        self.online.set_traffic(found, found.traffic, found.mirror)
        return self.online.find(found.name) or found

    def seen(self, found: Found) -> Seen:
        """What was collected since the traffic was split so."""
        entry, since = self.case.entry, datetime.datetime.fromisoformat(found.since)
        address = self.settings.log or f"{COLLECTED}/{found.name}"
        place = collected.FOLDER / found.name
        _rewrite(address, Period(since.astimezone(datetime.UTC).date()), place / REQUESTS)
        names = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
        return online.after(place, _moment(found.since), *names)

    def follow(self, plan: Plan, found: Found) -> int:
        """Carry a plan out; 2 where a test fails, then traffic is where it was."""
        return follow(Rollout(self.online, self.case, plan, found), only_plan=False)

    def back(self) -> int:
        """Lead all traffic back to the prior deployment."""
        return deploy.rollback(self.settings)


def _rewrite(address: str, period: Period, path: Path) -> None:
    """Write what was collected as a router's log has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        try:
            log = collected.fetch(address, period)
        except NothingCollectedError:
            return
        with log.open(encoding="utf-8") as rows:
            file.writelines(json.dumps(_line(json.loads(row))) + "\n" for row in rows)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a collected log as a line of requests.jsonl; it has no latency."""
    content = {k: v for k, v in row.items() if k not in (ID, "time", "deployment")}
    return {
        "time": _moment(str(row["time"])),
        "request_id": str(row[ID]),
        "deployment": row["deployment"],
        "mirrored": False,
        "status": _status(content),
        "seconds": None,
        "inputs": content,
        "outputs": {},
    }


def _status(content: Mapping[str, Any]) -> int:
    """What the answer's status was: of an error only its body is collected."""
    error = content.get("error")
    if not isinstance(error, dict) or not {"code", "message"} <= {*error}:
        return 200
    return REFUSED if error["code"] in CALLERS else FAILED


def _moment(text: str) -> str:
    """A time in UTC as our logs have it, so that texts can be compared; empty where it is none."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return ""
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return found.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
