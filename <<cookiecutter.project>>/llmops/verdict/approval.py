"""`make approve`: a person looks at a run and says yes; `make deploy` asks for exactly that.

An approval is a record of who said yes to what. What keeps others from deploying all the same are
the rights in Azure and the reviewers of the pipeline's environment. Going back needs no approval:
what served before had one, and whoever rolls back is in a hurry.
"""

from __future__ import annotations

import datetime
import getpass
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from llmops import config, origin, registration, report, summary
from llmops.config import Experiment
from llmops.errors import OK, UserError
from llmops.registration import REGISTRATION, Registration
from llmops.report.words import source
from llmops.settings import Settings
from llmops.summary import SUMMARY, Model, Summary
from llmops.verdict import gate

APPROVAL = Path("reports/approval.json")
SHORT = 12
"""Characters of a run's hash that a person reads."""


class Approval(Model):
    """`reports/approval.json`: `who` said yes to a run for ENV.

    `run` is what `run_of` makes of the summary. `how` is "terminal", or the platform and its
    environment that asked its reviewers; `who` then started the pipeline, and `note` leads there.
    """

    experiment: str
    env: str
    run: str
    who: str
    when: str
    how: str
    note: str = ""


def run_of(last: Summary) -> str:
    """A hash over all that an approval is about: what ran, what it scored, what the gate said.

    The same files, run or judged again, have the same one.
    """
    ran = [[r.variant, r.dataset, r.outputs, r.rows, r.failed] for r in last.runs]
    scored = [
        [e.variant, e.dataset, e.evaluator, e.outputs, e.rows, e.failed] for e in last.evaluations
    ]
    scores = [score.model_dump() for score in last.scores]
    checks = [[c.check, c.variant, c.dataset, c.verdict] for c in last.gate.checks]
    where = [last.experiment, last.env, last.target, last.llm.mode]
    parts = [where, ran, scored, scores, last.gate.verdict, checks]
    if last.judges:
        parts.append(
            [[j.evaluator, j.score, j.outputs, j.agreement, j.flagged] for j in last.judges]
        )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run(settings: Settings, environment: Mapping[str, str] = os.environ) -> int:
    """Show the last experiment and ask for a yes; write reports/approval.json.

    Raises:
        UserError: there is no experiment, or it was one of another ENV; nobody can be asked; or
            the answer is not yes.
    """
    last = summary.load()
    if last.env != settings.env:
        raise UserError(
            f"ENV: '{settings.env}', but the last experiment was one of '{last.env}'. "
            f"Run `make experiment ENV={settings.env}` first."
        )
    experiment = config.load(settings.env)
    if experiment.approval != "required":
        print(f"'{settings.env}' needs no approval: `approval: required` is not in its files.")
        return OK
    print("\n".join(_shown(last, environment)), flush=True)
    who, how, note = _platform(environment) or _person(last, environment)
    approval = Approval(
        experiment=last.experiment,
        env=last.env,
        run=run_of(last),
        who=who,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        how=how,
        note=note,
    )
    summary.save(approval, APPROVAL)
    print(f"approved by {who} ({how}): {APPROVAL}")
    return OK


def check(experiment: Experiment, registered: Registration, settings: Settings) -> None:
    """Whether what is registered may be deployed to ENV; with PLAN=1 a no is only told.

    Raises:
        UserError: the gate did not let it through, or `approval: required` holds and there is no
            approval for exactly the run that is registered.
    """
    problem = ""
    if registered.gate == "fail" and not registered.forced:
        problem = f"{REGISTRATION}: gate: fail, and no reason was given. Run `make register` again."
    elif experiment.approval == "required":
        problem = _missing(experiment, registered, settings.env)
    if problem and not settings.plan:
        raise UserError(problem)
    if problem:
        print(f"`make deploy` would be refused: {problem}", flush=True)


def load() -> Approval | None:
    """The approval, null where there is none; raises UserError where it cannot be read."""
    return summary.read(Approval, APPROVAL, "approve") if APPROVAL.exists() else None


def _missing(experiment: Experiment, registered: Registration, env: str) -> str:
    """What is wrong with the approval; empty where nothing is."""
    found, again = load(), f"`make approve ENV={env}`"
    if found is None:
        asks = f"{experiment.file('approval')}: approval: required"
        return f"{APPROVAL}: not found, but {asks}. Run {again}, in a terminal."
    given = f"{APPROVAL}: {found.who} approved run {found.run[:SHORT]} of '{found.env}' at "
    given += found.when
    if found.env != env or found.experiment != registered.experiment:
        return f"{given}, which says nothing of '{registered.experiment}' in '{env}'. Run {again}."
    if found.run == registered.run:
        return ""
    what = f"{registered.model.name}:{registered.model.version}"
    if not registered.run:
        return f"{REGISTRATION}: does not say which run {what} is. Run `make register ENV={env}`."
    changed = f"{given}, but {what} is registered from run {registered.run[:SHORT]}"
    if SUMMARY.exists() and run_of(summary.load()) == found.run:
        return f"{changed}. Run `make register ENV={env}` to register what was approved."
    return f"{changed}: it changed since. Run {again}."


# --- who says yes --------------------------------------------------------------------------------


def _platform(environment: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Who, how and where to look, if the platform has asked; APPROVED_BY names its environment."""
    get = environment.get
    name = " ".join(get("APPROVED_BY", "").split())
    if name and get("GITHUB_ACTIONS") == "true":
        link = "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}"
        who, how = get("GITHUB_ACTOR", ""), f"github environment {name}"
    elif name and get("TF_BUILD", "").lower() == "true":
        link = "{SYSTEM_COLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}"
        who, how = get("BUILD_REQUESTEDFOR", ""), f"azure pipelines environment {name}"
    else:
        return None
    try:
        address = link.format_map(environment)
    except KeyError:
        address = ""
    return who or "unknown", how, get("NOTE", "") or address


def _person(last: Summary, environment: Mapping[str, str]) -> tuple[str, str, str]:
    """Who, how and a note, from a terminal; UserError where there is none or the answer is no."""
    if not sys.stdin.isatty():
        raise UserError(
            f"Nobody can be asked: this is no terminal. Run `make approve ENV={last.env}` in one. "
            "In a pipeline, put the task into a job that an environment with reviewers guards "
            "(GitHub Actions, Azure Pipelines), and set APPROVED_BY to that environment's name."
        )
    question = f"To approve this run for '{last.env}', type the experiment's name: "
    try:
        answer = input(question).strip()
    except EOFError:
        answer = ""
    if answer != last.experiment:
        raise UserError(f"Not approved: the answer was not '{last.experiment}'.")
    name, address = (
        origin.git("config", "user.name"),
        origin.git("config", "user.email"),
    )
    who = f"{name} <{address}>" if name and address else name or address or getpass.getuser()
    return who, "terminal", environment.get("NOTE", "")


# --- what is approved ----------------------------------------------------------------------------


def _shown(last: Summary, environment: Mapping[str, str]) -> Iterator[str]:
    yield f"experiment: {last.experiment}, ENV {last.env}, run {run_of(last)[:SHORT]}"
    yield f"llm: {source(last).title} {source(last).text}"
    yield report.table(last)
    yield from report.judged(last)
    yield from report.compared(last)
    yield from gate.lines(last.gate, last.gate.checks)
    since, commit = _since(last, environment)
    if not commit:
        yield "changes: no earlier version is known; BASE=<git ref> shows what changed since one."
        return
    changes = origin.git("diff", "--stat=100", "--stat-count=20", commit, "--", ".")
    yield f"changes since {since} ({commit[:7]}):{'' if changes else ' none'}"
    if changes:
        yield f" {changes}"


def _since(last: Summary, environment: Mapping[str, str]) -> tuple[str, str]:
    """The version to compare with, and its commit, both empty if none is known.

    BASE, else the base of the experiment, else what was registered before.
    """
    if ref := environment.get("BASE", "").strip():
        if not (commit := _commit(ref)):
            raise UserError(f"BASE: '{ref}' is no commit of this repo.")
        return ref, commit
    if last.base and (commit := _commit(last.base.commit)):
        return last.base.ref, commit
    known = registration.load() if REGISTRATION.exists() else None
    if known and known.run != run_of(last):
        return f"{known.model.name}:{known.model.version}", _commit(known.commit)
    return "", ""


def _commit(ref: str) -> str:
    name = f"{ref.removesuffix('-dirty')}^{{commit}}"
    return origin.git("rev-parse", "--verify", "--quiet", "--end-of-options", name)
