"""`make cutover`: lead traffic from the prior deployment to the current one, a step a call.

The step is found from the endpoint's own split of the traffic and nothing else, so a call that was
broken off, or a split that somebody else made, is gone on from. Before each step but the first

1. the current deployment must answer the sample request;
2. each of the two must have answered REQUESTS requests since the traffic was split as it is: WAIT
   seconds are waited for them, then the traffic stays;
3. in nothing that `make monitor` compares (errors, latency, scores, feedback; all since then) may
   the current one be certainly worse.

Where 1 or 3 fails, or the test after the shift, all traffic goes back to the prior deployment. One
that is undecided after enough answers goes on: that is what the next, larger step is for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from llmops.deploying import cutover_steps, rollout
from llmops.deploying.cutover_steps import Next
from llmops.deploying.deployment import CONFIG, Endpoint
from llmops.deploying.probe import Verdict
from llmops.deploying.rollout import Found, Plan
from llmops.deploying.subject import Subject
from llmops.errors import FAILED, OK, UserError
from llmops.files import write_atomically
from llmops.lines import moment
from llmops.monitoring import monitor, online_figures
from llmops.monitoring.streams import Seen
from llmops.parity import document
from llmops.parity.document import PARITY
from llmops.report.words import moment as words_of
from llmops.settings import Settings

REPORT = Path("reports/cutover.json")
Outcome = Literal["shifted", "waiting", "rolled back", "failed", "done"]


class Site(Protocol):
    """An endpoint, in Azure or on this machine.

    `collects_only`: nothing is known of a request unless DATA_COLLECTION keeps it.
    """

    @property
    def case(self) -> Subject[Endpoint]:
        """What is deployed."""
        ...

    @property
    def poll_s(self) -> float:
        """Seconds after which to look again for answers."""
        ...

    @property
    def collects_only(self) -> bool:
        """See above."""
        ...

    def found(self) -> Found | None:
        """The endpoint as it is now."""
        ...

    def ask(self, found: Found, deployment: str) -> Verdict:
        """Send the sample request to a deployment."""
        ...

    def restart(self, found: Found) -> Found:
        """Count from now on what is answered by this split of the traffic."""
        ...

    def seen(self, found: Found) -> Seen:
        """What both deployments answered since the traffic was split so."""
        ...

    def follow(self, plan: Plan, found: Found) -> int:
        """Carry a plan out; 2 where a test fails, then traffic is where it was."""
        ...

    def back(self) -> int:
        """Lead all traffic back to the prior deployment."""
        ...


@dataclass(frozen=True)
class Judged:
    """Whether to go on: "go", "worse" (then back) or "wait", and why not."""

    verdict: Literal["go", "worse", "wait"]
    why: str = ""


GO = Judged("go")


def run(settings: Settings, site: Site) -> int:
    """Take the next of STEPS, where what was answered since the last one allows it.

    2 where the traffic went back, or stays because answers are missing.

    Raises:
        UserError: something the user must fix; parity was denied and FORCE gives no reason.
    """
    found = site.found()
    step = cutover_steps.following(settings.steps, rollout.share(site.case.entry, found))
    assert found
    if step is None:
        print(_remains(site.case.entry))
        _report(site, 100, "done")
        return OK
    _check_parity(site.case.experiment.flow or "", settings.force)
    plan = rollout.shift(site.case.entry, found, step.then)
    plan = replace(plan, notes=tuple(_notes(site, step, found, settings)))
    if settings.plan:
        print(plan.table)
        return OK
    judged = _judge(site, found, settings) if step.now else GO
    if judged.verdict == "go":
        return _take(site, plan, found, step)
    print(site.case.mask(judged.why), flush=True)
    if judged.verdict == "worse":
        return _back(site, step, judged.why)
    _report(site, step.now, "waiting", judged.why)
    return FAILED


def _take(site: Site, plan: Plan, found: Found, step: Next) -> int:
    """Shift the traffic; where a test fails, all of it goes back."""
    if site.follow(plan, found) != OK:
        why = "a test failed: see above."
        if step.now:
            return _back(site, step, why)
        _report(site, 0, "failed", why)
        return FAILED
    _report(site, step.then, "done" if step.then == 100 else "shifted")
    print(_remains(site.case.entry) if step.then == 100 else "`make cutover` takes the next step.")
    return OK


def _back(site: Site, step: Next, why: str) -> int:
    prior = site.case.entry.PRIOR_DEPLOYMENT_NAME
    print(f"All traffic goes back to '{prior}'.", flush=True)
    back = site.back()
    outcome: Outcome = "rolled back" if back == OK else "failed"
    _report(site, 0 if back == OK else step.now, outcome, why)
    return FAILED


def _judge(site: Site, found: Found, settings: Settings) -> Judged:
    """Whether the current deployment may have more of the traffic than it has."""
    current = site.case.entry.CURRENT_DEPLOYMENT_NAME
    if problem := site.ask(found, current).problem:
        return Judged("worse", f"deployment '{current}' fails the sample request: {problem}.")
    if site.collects_only and (silent := _silent(site.case.entry, found)):
        return Judged("wait", _uncollected(silent))
    if not found.since:
        print("It is not known since when the traffic is split so: answers count from now on.")
        found = site.restart(found)
    scored = not _silent(site.case.entry, found) and _overlay().is_file()
    seen, judged = _await(site, found, scored, settings)
    return judged if judged.verdict != "go" else _compare(settings, seen)


def _await(site: Site, found: Found, scored: bool, settings: Settings) -> tuple[Seen, Judged]:
    """Wait until each has answered enough; no longer than WAIT, and not where too many failed."""
    end, told = time.monotonic() + settings.wait_s, False
    while True:
        seen = site.seen(found)
        figures = online_figures.figures(seen, None, None)
        if reasons := cutover_steps.failing(figures.comparison):
            return seen, _worse(seen.current, reasons)
        answers = cutover_steps.answered(seen, scored)
        if not (missing := cutover_steps.missing(answers, settings.requests)):
            return seen, GO
        words = _words(missing, found, settings.requests, scored)
        left = end - time.monotonic()
        if left <= 0:
            return seen, Judged("wait", f"Too few answers since {words_of(found.since)}: {words}")
        if not told:
            print(f"waiting for answers, {settings.wait_s:g} s at most: {words}", flush=True)
        told = True
        time.sleep(min(site.poll_s, left))


def _compare(settings: Settings, seen: Seen) -> Judged:
    """What `make monitor` finds between the two, with the scores of its overlay."""
    own = replace(settings, env=monitor.DEFAULT_ENV, variants=(), target="local")
    monitor.answered(own, seen)
    online = monitor.load().online
    reasons = cutover_steps.worse(online.comparison if online else ())
    return _worse(seen.current, reasons) if reasons else GO


def _worse(current: str, reasons: Sequence[str]) -> Judged:
    return Judged("worse", "\n".join([f"'{current}' is worse:", *(f"  {one}" for one in reasons)]))


def _words(missing: dict[str, int], found: Found, needed: int, scored: bool) -> str:
    """How many answers are missing, and of about how many requests they would be."""
    what = "kept answers" if scored else "answers"
    each = []
    for name, count in missing.items():
        share = found.traffic.get(name, 0) / 100
        if scored:
            share *= found.deployments[name].collects / 100
        more = f" (about {count / share:,.0f} requests to the endpoint)" if share else ""
        each.append(f"'{name}' has {needed - count} of {needed} {what}, {count} are missing{more}")
    return "; ".join(each) + "."


def _overlay() -> Path:
    return Path(f"experiment.{monitor.DEFAULT_ENV}.yaml")


def _silent(entry: Endpoint, found: Found) -> list[str]:
    """Which of the two keep none of their answers."""
    names = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
    return [name for name in names if not found.deployments[name].collects]


def _uncollected(silent: Sequence[str]) -> str:
    return (
        f"Azure ML keeps nothing of what {' and '.join(map(repr, silent))} answer, so nothing can "
        f"be compared; traffic stays. {CONFIG}: set DATA_COLLECTION (percent of the requests) "
        "before either takes traffic: `make rollback`, deploy both with it, then run again. "
        "Without a comparison, `make deploy` splits the traffic as the file says."
    )


def _notes(site: Site, step: Next, found: Found, settings: Settings) -> list[str]:
    """What a reader of the plan must know besides."""
    entry = site.case.entry
    current = entry.CURRENT_DEPLOYMENT_NAME
    steps = ", ".join(f"{one}%" for one in settings.steps)
    notes = [f"Steps: {steps}; '{current}' has {step.now}% now."]
    if step.now != step.last:
        notes.append(
            f"{step.now}% is none of the steps: somebody else split the traffic. Going on as from "
            f"{step.last}%."
        )
    if step.now:
        since = words_of(found.since) if found.since else "now"
        notes.append(
            f"Before {step.then}%: {settings.requests} answers of each since {since}, in which "
            f"'{current}' is in nothing certainly worse."
        )
        if not _overlay().is_file() or _silent(entry, found):
            notes.append(f"Answers are not scored: that needs {_overlay()} and DATA_COLLECTION.")
    return notes


def _remains(entry: Endpoint) -> str:
    prior, current = entry.PRIOR_DEPLOYMENT_NAME, entry.CURRENT_DEPLOYMENT_NAME
    return (
        f"'{current}' has all the traffic. '{prior}' is still there: `make rollback` leads all of "
        "it back. Once nobody needs it, delete it."
    )


def _check_parity(flow: str, force: str) -> None:
    """UserError where `make parity` found this flow to answer differently, without a reason."""
    if not PARITY.exists():
        return
    found = document.load()
    names = found.a.flow, found.b.flow
    if found.verdict != "different" or _folder(flow) not in map(_folder, names):
        return
    if not force:
        raise UserError(
            f"{PARITY}: {' and '.join(names)} answer differently. Look at the report and mend the "
            'flow, or go on all the same: FORCE="reason".'
        )
    print(f"{PARITY} says different; going on all the same: {force}")


def _folder(flow: str) -> str:
    """The folder of a flow that is named by its folder, a file in it or a function of that."""
    path = Path(flow.partition(":")[0])
    return str(path.parent if path.suffix else path)


def _report(site: Site, share: int, outcome: Outcome, why: str = "") -> None:
    """Write reports/cutover.json: how it ended, for a pipeline that calls again or not."""
    entry = site.case.entry
    document = {
        "endpoint": entry.ENDPOINT_NAME,
        "env": site.case.env,
        "kind": site.case.kind,
        "prior": entry.PRIOR_DEPLOYMENT_NAME,
        "current": entry.CURRENT_DEPLOYMENT_NAME,
        "share": share,
        "outcome": outcome,
        "why": site.case.mask(why),
        "at": moment(),
    }
    with write_atomically(REPORT) as file:
        file.write(json.dumps(document, indent=2) + "\n")
