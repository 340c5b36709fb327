"""Roll out and roll back an online endpoint.

The order of a roll-out: endpoint, environment, deployment without traffic, its test, the traffic,
the test again. Whatever fails after the traffic was touched puts it back to what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmops import image, registration
from llmops.azure import roles, search_access, specification, workspace
from llmops.azure.check import Tester
from llmops.azure.online import Online
from llmops.azure.specification import Case
from llmops.deploying import rollout
from llmops.deploying.deployment import CONFIG
from llmops.deploying.probe import Verdict
from llmops.deploying.rolling import Rolling, follow
from llmops.deploying.rollout import Found, Step, Wanted
from llmops.errors import UserError
from llmops.settings import Settings
from llmops.verdict import approval


def deploy(settings: Settings) -> int:
    """Roll the registered flow out to the endpoint of ENV; with PLAN=1 only say what would change.

    2 if the new deployment does not pass its test: then traffic is where it was.

    Raises:
        UserError: something the user must fix, in the configuration or in Azure; or no approval.
    """
    case, registered = specification.read(settings), registration.load()
    approval.check(case.experiment, registered, settings)
    context = image.files(image.locks(case.experiment, case.flow))
    wanted = specification.wanted(case, registered, image.digest(context))
    search = search_access.target(case.experiment, registered)
    search_access.check(search, registered)
    with workspace.explained(case.where):
        wanted = search_access.prepared(case.where, wanted, search)
        needs = (*_needs(wanted), *search_access.needs(case.where, search))
        online = Online(case.where, workspace.client(case.where))
        online.require_model(registered.model.name, registered.model.version)
        if case.kind == "kubernetes" and case.entry.COMPUTE_NAME:
            online.require_compute(case.entry.COMPUTE_NAME)
        found = online.settled(case.entry.ENDPOINT_NAME, settings.wait_s)
        exists = online.has_environment(wanted.deployment.environment)
        plan = rollout.roll_out(wanted, found, exists, _missing_roles(case, wanted, found, needs))
        work = Rollout(online, case, plan, found, wanted, context, needs, settings.wait_s)
        return follow(work, settings.plan)


def rollback(settings: Settings) -> int:
    """Lead all traffic back to the prior deployment, after its test; PLAN and exit code as above.

    It needs no approval: see `llmops.verdict.approval`.

    Raises:
        UserError: as `deploy`.
    """
    case = specification.read(settings)
    with workspace.explained(case.where):
        online = Online(case.where, workspace.client(case.where))
        found = online.settled(case.entry.ENDPOINT_NAME, settings.wait_s)
        plan = rollout.roll_back(case.entry, found)
        return follow(Rollout(online, case, plan, found), settings.plan)


@dataclass
class Rollout(Rolling):
    """Carries out a plan in Azure."""

    online: Online
    case: Case
    wanted: Wanted | None = None
    context: dict[str, Path] = field(default_factory=dict)
    needs: Sequence[roles.Need] = ()
    wait_s: float = 0
    granted: bool = False

    def _doing(self) -> Mapping[str, Callable[[Step], None]]:
        return {
            "endpoint": self._endpoint,
            "roles": self._roles,
            "environment": self._environment,
            "deployment": self._deployment,
        }

    def _ask(self, url: str, deployment: str) -> Verdict:
        tester = Tester(self.online, self.case)
        wait_s = self.wait_s if self.granted else 0
        return search_access.patiently(lambda: tester.ask(url, deployment), wait_s)

    def _endpoint(self, step: Step) -> None:
        assert self.wanted
        if step.action == "update":
            assert self.found
            self.online.update_endpoint(self.found, self.case.entry.ENDPOINT_DESC)
            return
        if step.action == "replace":
            self.online.delete_endpoint(step.name)
        self.online.create_endpoint(self.wanted)

    def _roles(self, step: Step) -> None:
        assert self.wanted
        principal = _principal(self.case, self.wanted, self.now)
        assert principal
        given = roles.grant(self.case.where, principal, self.needs)
        self.granted = any(one.made for one in given)

    def _environment(self, step: Step) -> None:
        self.online.create_environment(step.name, self.context)

    def _deployment(self, step: Step) -> None:
        assert self.wanted
        self._check_untouched()
        if step.action == "replace":
            self.online.delete_deployment(self.name, step.name)
        self._put_patiently(step)

    def _put_patiently(self, step: Step) -> None:
        """Put it; again, as long as WAIT, where a role that was just granted does not act yet."""
        assert self.wanted
        began = time.monotonic()
        for pause in roles.pauses():
            try:
                self.online.put_deployment(self.wanted)
                return
            except UserError as error:
                if not self.granted or not roles.REFUSAL.search(str(error)):
                    raise
                passed = time.monotonic() - began
                if passed + pause > self.wait_s:
                    raise UserError(f"{error}\n{roles.NOT_YET} (WAIT={self.wait_s:g})") from error
            print(
                f"  ... {passed:.0f} s: a role does not act yet; again in {pause:g} s", flush=True
            )
            time.sleep(pause)
            if step.action != "update":  # what failed when it was made cannot be mended
                self.online.delete_deployment(self.name, step.name)


def _needs(wanted: Wanted) -> Sequence[roles.Need]:
    return roles.USER_ASSIGNED if wanted.identity else roles.SYSTEM_ASSIGNED


def _principal(case: Case, wanted: Wanted, found: Found | None) -> str | None:
    """The object id of the endpoint's identity, null where the endpoint will have to bring it."""
    if wanted.identity:
        try:
            return roles.principal_of(case.where, wanted.identity)
        except UserError as error:
            raise UserError(f"{CONFIG}: USER_MANAGED_ID: {error}") from error
    return found.principal if found else None


def _missing_roles(
    case: Case, wanted: Wanted, found: Found | None, needs: Sequence[roles.Need]
) -> Sequence[str] | None:
    principal = _principal(case, wanted, found)
    return roles.missing(case.where, principal, needs) if principal else None
