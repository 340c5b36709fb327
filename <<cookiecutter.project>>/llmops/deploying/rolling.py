"""Carry out a plan of `llmops.deploying.rollout` step by step, wherever the endpoint is.

Whatever fails after the traffic was touched puts it back to what it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from llmops.deploying import rollout
from llmops.deploying.deployment import Endpoint
from llmops.deploying.probe import Verdict
from llmops.deploying.rollout import Found, Plan, Step
from llmops.deploying.subject import Subject
from llmops.errors import FAILED, OK, BusyError, UserError


class RejectedError(Exception):
    """A deployment did not pass its test; the message says why and where the traffic is."""


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


class Endpoints(Protocol):
    """The endpoints of a workspace, or of this machine."""

    def find(self, name: str) -> Found | None:
        """The endpoint as it is now, or null."""
        ...

    def set_traffic(
        self, found: Found, traffic: Mapping[str, int], mirror: Mapping[str, int]
    ) -> None:
        """Split the traffic, which acts when this returns."""
        ...

    def log(self, endpoint: str, deployment: str) -> str:
        """The last lines that a deployment wrote, or nothing."""
        ...


@dataclass
class Rolling(ABC):
    """A roll-out or roll-back on the way; a subclass knows how each kind of step is done."""

    online: Endpoints
    case: Subject[Endpoint]
    plan: Plan
    found: Found | None

    @abstractmethod
    def _doing(self) -> Mapping[str, Callable[[Step], None]]:
        """How to do the steps, by what they are about."""

    @abstractmethod
    def _ask(self, url: str, deployment: str) -> Verdict:
        """Send the sample request to a deployment, or to the endpoint where none is named."""

    def run(self) -> None:
        """Do every step that changes something; raises RejectedError where the test fails."""
        doing = {"test": self._test, "traffic": self._traffic, **self._doing()}
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
        verdict = self._ask(self.now.url, step.name)
        if verdict.problem:
            raise RejectedError(
                f"deployment '{step.name}' did not pass its test: {verdict.problem}.\n"
                f"Traffic is where it was. {_kept(step.name, self.found)}; mend the flow or its "
                f"settings and run again.\n"
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
        for target in ("", *self.plan.traffic):
            verdict = self._ask(url, target)
            if verdict.problem:
                who = f"deployment '{target}'" if target else f"endpoint '{self.name}'"
                raise RejectedError(
                    f"{who} fails since the traffic was shifted: {verdict.problem}."
                )

    @contextmanager
    def _put_back(self, before: Found) -> Iterator[None]:
        """On any failure, a signal included, lead traffic to where it was, and say so.

        But not where somebody else's change is under way: that would undo it.
        """
        try:
            yield
        except BusyError:
            raise
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


def _kept(deployment: str, found: Found | None) -> str:
    if share := found.traffic.get(deployment, 0) if found else 0:
        return f"The deployment takes {share}% of it"
    return "The deployment is kept without traffic for its log"


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
