"""The tasks about an endpoint, with KIND=local: one on this machine, without Azure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from llmops.deploying import cutover as cutovers
from llmops.deploying import deployment, endpoint_report, probe, rollout, subject
from llmops.deploying.deployment import Endpoint
from llmops.deploying.endpoint_report import TIMES
from llmops.deploying.probe import Verdict
from llmops.deploying.rolling import Rolling, follow
from llmops.deploying.rollout import Found, Plan, Step, Wanted
from llmops.errors import UserError
from llmops.local import permission, showing, state, wanted
from llmops.local.machine import NOT_RUNNING, Machine, only_one
from llmops.local.routing import HEADER
from llmops.local.state import Kept, State
from llmops.local.wanted import Case
from llmops.monitoring import online
from llmops.monitoring.streams import Seen
from llmops.settings import Settings


def deploy(settings: Settings) -> int:
    """Roll the flow of experiment.yaml out to the endpoint of ENV; STATUS, DOWN and PLAN.

    2 if the new deployment does not pass its test: then traffic is where it was.

    Raises:
        UserError: something the user must fix; the gate; or no approval.
    """
    if settings.status:
        return showing.status(_entry(settings).name)
    if settings.down:
        return showing.down(_entry(settings).name, settings.wait_s)
    case, machine = _case(settings), Machine()
    chosen = wanted.variant(case, settings)
    permission.check(case, chosen.name, settings)
    with TemporaryDirectory(prefix="bundle-") as name, _alone(case, settings):
        packed = Path(name)
        kept = wanted.deployment(case, chosen, packed, settings)
        print(f"flow: {case.flow.path}, variant '{kept.variant}', llm {kept.llm}", flush=True)
        seen = machine.seen(case.entry.ENDPOINT_NAME)
        then = wanted.endpoint(case, seen, settings.port)
        shall = Wanted("local", case.entry, kept.deployment)
        todo = rollout.roll_out_here(shall, seen.found, wanted.step(then, seen))
        work = Rollout(machine, case, todo, seen.found, then, kept, packed, settings.wait_s)
        return follow(work, settings.plan)


def rollback(settings: Settings) -> int:
    """Lead all traffic back to the prior deployment, after its test; PLAN and exit code as above.

    It needs no approval: see `llmops.verdict.approval`.

    Raises:
        UserError: as `deploy`.
    """
    case, machine = _case(settings), Machine()
    with _alone(case, settings):
        seen = machine.seen(case.entry.ENDPOINT_NAME)
        todo = rollout.roll_back(case.entry, seen.found)
        assert seen.kept
        if seen.running is None:
            todo = replace(todo, steps=(wanted.start(seen.kept), *todo.steps))
        work = Rollout(machine, case, todo, seen.found, seen.kept, wait_s=settings.wait_s)
        return follow(work, settings.plan)


def check(settings: Settings) -> int:
    """Send the sample request to the endpoint and to each deployment with traffic; 2 if one fails.

    Raises:
        UserError: as `deploy`, and where the endpoint does not run.
    """
    case = _case(settings)
    name = case.entry.ENDPOINT_NAME
    if (found := Machine().find(name)) is None:
        raise rollout.absent(name)
    if found.state == NOT_RUNNING:
        raise UserError(f"endpoint '{name}' is not running. Run `make deploy KIND=local`.")
    verdicts = {"": _ask(case, found.url, "", TIMES)}
    verdicts |= {d: _ask(case, found.url, d, TIMES) for d in found.traffic}
    return endpoint_report.report(case, found, verdicts)


def cutover(settings: Settings) -> int:
    """Lead traffic one step on, as `llmops.deploying.cutover` says.

    Raises:
        UserError: as `deploy`, and where the endpoint does not run.
    """
    return cutovers.run(settings, Site(_case(settings), settings))


@dataclass(frozen=True)
class Site:
    """An endpoint on this machine, for a cut-over."""

    case: Case
    settings: Settings
    poll_s: float = 1.0
    collects_only: bool = False

    def found(self) -> Found | None:
        """The endpoint as it is now; raises UserError where it does not run."""
        name = self.case.entry.ENDPOINT_NAME
        found = Machine().find(name)
        if found and found.state == NOT_RUNNING:
            raise UserError(
                f"endpoint '{name}' is not running. Bring it back as it was: "
                f"`.venv/bin/python -m llmops.local {state.folder(name)} &`, then run again."
            )
        return found

    def ask(self, found: Found, deployment: str) -> Verdict:
        """The verdict on one deployment."""
        return _ask(self.case, found.url, deployment)

    def restart(self, found: Found) -> Found:
        """Count from now on what is answered by this split of the traffic."""
        with _alone(self.case, self.settings):
            Machine().set_traffic(found, found.traffic, found.mirror)
        return Machine().find(found.name) or found

    def seen(self, found: Found) -> Seen:
        """What was answered since the traffic was split so."""
        entry = self.case.entry
        names = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
        return online.after(state.folder(found.name), found.since, *names)

    def follow(self, plan: Plan, found: Found) -> int:
        """Carry a plan out; 2 where a test fails, then traffic is where it was."""
        machine = Machine()
        with _alone(self.case, self.settings):
            kept = machine.seen(found.name).kept
            assert kept
            return follow(Rollout(machine, self.case, plan, found, kept), only_plan=False)

    def back(self) -> int:
        """Lead all traffic back to the prior deployment."""
        return rollback(self.settings)


@dataclass
class Rollout(Rolling):
    """Carries out a plan on this machine: `then` is the endpoint, `kept` its new deployment.

    `packed` holds the bundle of that.
    """

    online: Machine
    then: State
    kept: Kept | None = None
    packed: Path = Path()
    wait_s: float = 600

    def _doing(self) -> Mapping[str, Callable[[Step], None]]:
        return {"endpoint": self._endpoint, "deployment": self._deployment}

    def _ask(self, url: str, deployment: str) -> Verdict:
        return _ask(self.case, url, deployment)

    def _endpoint(self, step: Step) -> None:
        if self.found is None or self.found.state == NOT_RUNNING:
            self.online.start(self.then)
            self.online.await_ready(self.name, self.wait_s)
            return
        one = self.then
        self.online.change(self.name, description=one.description, sticky_key=one.sticky_key)

    def _deployment(self, step: Step) -> None:
        assert self.kept
        if self.found:
            self._check_untouched()
        # On the disk of the endpoint, where it is only renamed into its place.
        staged = Path(mkdtemp(prefix=".staged-", dir=state.folder(self.name)))
        try:
            shutil.copytree(self.packed, staged, dirs_exist_ok=True)
            self.online.put(self.name, self.kept, staged, self.wait_s)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _entry(settings: Settings) -> Endpoint:
    _, entry = deployment.choose(settings.env, "local")
    assert isinstance(entry, Endpoint)
    return entry


def _case(settings: Settings) -> Case:
    """All that can be wrong before anything is started is found here; raises UserError."""
    entry = _entry(settings)
    state.folder(entry.ENDPOINT_NAME)
    state.check_name(entry.CURRENT_DEPLOYMENT_NAME)
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    os.environ.update(NO_PROXY=direct, no_proxy=direct)  # this machine is behind no proxy
    return subject.read(settings, "local", entry)


@contextmanager
def _alone(case: Case, settings: Settings) -> Iterator[None]:
    """No other task changes the endpoint meanwhile; a plan alone changes nothing."""
    if settings.plan:
        yield
        return
    with only_one(case.entry.ENDPOINT_NAME, settings.wait_s):
        yield


def _ask(case: Case, url: str, name: str, times: int = 1) -> Verdict:
    headers = {HEADER: name} if name else {}
    verdict = probe.ask(url, headers, case.request, case.flow.outputs, times)
    return replace(verdict, problem=case.mask(verdict.problem))
