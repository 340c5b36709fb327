"""Roll out and roll back an online endpoint.

The order of a roll-out: endpoint, environment, deployment without traffic, its test, the traffic,
the test again. Whatever fails after the traffic was touched puts it back to what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmops import approval, image, registration, rollout
from llmops.azure import roles, specification, workspace
from llmops.azure.check import Tester
from llmops.azure.online import Online
from llmops.azure.specification import Case, Subject
from llmops.deployment import CONFIG
from llmops.errors import FAILED, OK, UserError
from llmops.rollout import Found, Plan, Step, Wanted
from llmops.settings import Settings

AZURE = Path("requirements/azure.txt")
"""What the container needs to fetch a connection from the workspace."""


class RejectedError(Exception):
    """A deployment did not pass its test; the message says why and where the traffic is."""


def deploy(settings: Settings) -> int:
    """Roll the registered flow out to the endpoint of ENV; with PLAN=1 only say what would change.

    2 if the new deployment does not pass its test: then traffic is where it was.

    Raises:
        UserError: something the user must fix, in the configuration or in Azure; or no approval.
    """
    case, registered = specification.read(settings), registration.load()
    approval.check(case.experiment, registered, settings)
    more = {"azure-requirements.txt": AZURE} if case.workspace_connections else {}
    context = image.files(more)
    wanted = specification.wanted(case, registered, image.digest(context))
    with workspace.explained(case.where):
        online = Online(case.where, workspace.client(case.where))
        online.require_model(registered.model.name, registered.model.version)
        if case.kind == "kubernetes" and case.entry.COMPUTE_NAME:
            online.require_compute(case.entry.COMPUTE_NAME)
        found = online.settled(case.entry.ENDPOINT_NAME, settings.wait_s)
        exists = online.has_environment(wanted.deployment.environment)
        plan = rollout.roll_out(wanted, found, exists, _missing_roles(case, wanted, found))
        return follow(
            Rollout(online, case, plan, found, wanted, context, settings.wait_s), settings.plan
        )


def rollback(settings: Settings) -> int:
    """Lead all traffic back to the prior deployment, after its test; PLAN and exit code as above.

    It needs no approval: see `llmops.approval`.

    Raises:
        UserError: as `deploy`.
    """
    case = specification.read(settings)
    with workspace.explained(case.where):
        online = Online(case.where, workspace.client(case.where))
        found = online.settled(case.entry.ENDPOINT_NAME, settings.wait_s)
        plan = rollout.roll_back(case.entry, found)
        return follow(Rollout(online, case, plan, found), settings.plan)


class Work(Protocol):
    """A plan, and how it is carried out."""

    @property
    def case(self) -> Subject[Any]:
        """What it is for."""
        ...

    @property
    def plan(self) -> Plan:
        """What a person reads first."""
        ...

    def run(self) -> None:
        """Do every step that changes something; raises RejectedError where the test fails."""
        ...

    @property
    def done(self) -> str:
        """What to say at the end."""
        ...


@dataclass
class Rollout:
    """Carries out a plan, step by step."""

    online: Online
    case: Case
    plan: Plan
    found: Found | None
    wanted: Wanted | None = None
    context: dict[str, Path] = field(default_factory=dict)
    wait_s: float = 0
    granted: bool = False

    def run(self) -> None:
        """Do every step that changes something; raises RejectedError where the test fails."""
        doing: dict[str, Callable[[Step], None]] = {
            "endpoint": self._endpoint,
            "roles": self._roles,
            "environment": self._environment,
            "deployment": self._deployment,
            "test": self._test,
            "traffic": self._traffic,
        }
        for step in self.plan.steps:
            if step.action != "keep":
                print(f"{step.what} {step.name}: {step.then} ...", flush=True)
                doing[step.what](step)

    @property
    def done(self) -> str:
        """Where the traffic is now."""
        traffic = rollout.shares(self.plan.traffic, self.plan.mirror)
        return f"Done: endpoint '{self.name}' has {traffic}.\nScoring address: {self.now.url}"

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.case.entry.ENDPOINT_NAME

    @property
    def now(self) -> Found:
        """The endpoint as it is now."""
        found = self.online.find(self.name)
        if found is None:
            raise rollout.absent(self.name)
        return found

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
        given = roles.grant(self.case.where, principal, _needs(self.wanted))
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

    def _check_untouched(self) -> None:
        """Nobody else has changed deployments or traffic since the plan was made."""
        before, now = self.found, self.now
        planned = (before.deployments, before.traffic, before.mirror) if before else ({}, {}, {})
        if (now.deployments, now.traffic, now.mirror) != planned:
            raise UserError(
                f"endpoint '{self.name}': somebody else has changed it since the plan was made. "
                "Run again."
            )

    def _test(self, step: Step) -> None:
        verdict = Tester(self.online, self.case).ask(self.now.url, step.name)
        if verdict.problem:
            raise RejectedError(
                f"deployment '{step.name}' did not pass its test: {verdict.problem}.\n"
                f"Traffic is where it was. The deployment is kept without traffic for its log; "
                f"mend the flow or its settings and run again.\n"
                f"{self.online.log(self.name, step.name)}".strip()
            )

    def _traffic(self, step: Step) -> None:
        before = self.now
        planned = (self.found.traffic, self.found.mirror) if self.found else ({}, {})
        if (before.traffic, before.mirror) != planned:
            raise UserError(
                f"endpoint '{self.name}': somebody else has changed its traffic since the plan "
                "was made. Run again."
            )
        with self._put_back(before):
            self.online.set_traffic(before, self.plan.traffic, self.plan.mirror)
            self._check_again(before.url)

    def _check_again(self, url: str) -> None:
        tester = Tester(self.online, self.case)
        for target in ("", *self.plan.traffic):
            verdict = tester.ask(url, target)
            if verdict.problem:
                who = f"deployment '{target}'" if target else f"endpoint '{self.name}'"
                raise RejectedError(
                    f"{who} fails since the traffic was shifted: {verdict.problem}."
                )

    @contextmanager
    def _put_back(self, before: Found) -> Iterator[None]:
        """On any failure, a signal included, lead traffic to where it was, and say so."""
        try:
            yield
        except BaseException as error:
            shares = rollout.shares(before.traffic, before.mirror)
            try:
                self.online.set_traffic(before, before.traffic, before.mirror)
            except Exception as other:
                raise UserError(
                    f"{error}\nTraffic could NOT be put back to {shares}: {other}\n"
                    "Run `make check-endpoint`, then `make rollback` or `make deploy`."
                ) from error
            print(f"Traffic is put back to what it was: {shares}.", flush=True)
            raise


def follow(work: Work, only_plan: bool) -> int:
    """Show the plan, then carry it out unless only the plan is wanted; no secret is shown."""
    print(work.plan.table, flush=True)
    if only_plan or not work.plan.steps:
        return OK
    try:
        work.run()
    except RejectedError as error:
        print(work.case.mask(str(error)))
        return FAILED
    except UserError as error:
        raise UserError(work.case.mask(str(error))) from error
    print(work.done)
    return OK


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


def _missing_roles(case: Case, wanted: Wanted, found: Found | None) -> Sequence[str] | None:
    principal = _principal(case, wanted, found)
    return roles.missing(case.where, principal, _needs(wanted)) if principal else None
