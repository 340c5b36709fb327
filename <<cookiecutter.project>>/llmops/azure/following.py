"""Starts runs in Azure or finds those under way, waits for their end, and keeps their rows."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from llmops import flows, origin, package
from llmops.azure import aggregation
from llmops.azure.aggregation import Evaluated
from llmops.azure.service import ENDED, Service, Submission, Unavailable
from llmops.config import Experiment
from llmops.errors import Stopped, UserError
from llmops.plan import Variant
from llmops.runs import Row
from llmops.work import Work

PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
PATIENCE_S = 300.0
"""How long a fault that may pass is waited out."""
SAID_EVERY_S = 60.0
LONGEST_NAME = 200
SEVERAL = "several models"
REPEATED = re.compile(r"-\d{1,4}$")
"""The end of the name of a second or later attempt."""
T = TypeVar("T")


@dataclass
class Remote:
    """A work's run in Azure.

    `since` is when this task began to follow it, `said` when it last told its state (monotonic
    seconds).
    """

    work: Work
    name: str
    state: str = ""
    since: float = field(default_factory=time.monotonic)
    said: float = 0.0


class Session:
    """Everything of one task that runs in Azure.

    `data` are the assets by the path of the file they hold. With `fresh` no earlier run is used.
    """

    def __init__(
        self,
        service: Service,
        experiment: Experiment,
        data: Mapping[Path, str],
        fresh: bool,
    ) -> None:
        self._service = service
        self._experiment = experiment
        self._data = data
        self._fresh = fresh
        self._commit = origin.commit()
        self._names: dict[Path, str] = {}
        self._under_way: list[Remote] = []
        self._evaluations: Sequence[Work] = ()
        self.evaluated: list[Evaluated] = []

    def run(self, runs: Sequence[Work], evaluations: Sequence[Work]) -> None:
        """Finish every run, then every evaluation of it.

        Raises:
            UserError: what Azure refuses, or a run that takes longer than `azure.timeout_s`.
        """
        self._evaluations = evaluations
        for work in runs:
            if work.left:
                self._begin(work)
        for work in evaluations:
            kept = work.scored is None or not work.scored.left
            if kept and (work.left or work.run.metrics() is None):
                self._begin(work)
        try:
            self._follow()
        except Stopped:
            _say("The runs go on in Azure; the same task will find them.")
            raise

    def _begin(self, work: Work) -> None:
        if next(_expected(work), None) is None:
            return  # every row that an evaluation could score has failed
        attempts = self._attempts(work)
        name, state = attempts[-1] if attempts else ("", "")
        failed = state in ENDED and (state != "Completed" or any(r.failed for r in work.run.rows()))
        if not attempts or failed or self._fresh:
            name = self._name(work, len(attempts) + 1)
            self._submit(work, name)
            _say(f"{work.name}: started. {self._asked(self._service.url, name)}")
        elif state not in ENDED:
            _say(f"{work.name}: under way already. {self._asked(self._service.url, name)}")
        self._names[work.run.folder] = name
        self._under_way.append(Remote(work, name))

    def _attempts(self, work: Work) -> list[tuple[str, str]]:
        """The runs of this work that Azure knows, with their states, the newest last."""
        found: list[tuple[str, str]] = []
        while True:
            name = self._name(work, len(found) + 1)
            state = self._asked(self._service.find, name)
            if state is None:
                return found
            found.append((name, state))

    def _name(self, work: Work, attempt: int) -> str:
        """A name that Azure takes: letters, digits, - and _.

        A run that was repeated may have answered otherwise, so its evaluation has a new name too.
        """
        text = f"{self._experiment.name}-{work.run.folder.name}"
        plain = re.sub(r"[^a-zA-Z0-9_-]+", "-", text)[-LONGEST_NAME:].lstrip("-_")
        repeated = REPEATED.search(self._scored(work))
        of = f"-of{repeated[0]}" if repeated else ""
        return f"{plain}{of}{'' if attempt == 1 else f'-{attempt}'}"

    def _submit(self, work: Work, name: str) -> None:
        experiment = self._experiment
        about = {"variant": work.variant, "dataset": work.dataset}
        tags = origin.tags(experiment.name, self._commit, os.environ)
        tags |= origin.short({**about, "evaluator": work.evaluator or ""})
        with tempfile.TemporaryDirectory() as temporary:
            submission = Submission(
                _packed(work, Path(temporary) / "flow"),
                self._data[work.table.path],
                work.mappings,
                f"{experiment.name}: {work.name}",
                tags,
                self._scored(work),
            )
            self._asked(lambda _: self._service.submit(name, submission), name)

    def _scored(self, work: Work) -> str:
        """The name of the run whose outputs an evaluation scores; empty for others."""
        scored = work.scored
        if scored is None:
            return ""
        if scored.run.folder not in self._names:
            completed = [name for name, state in self._attempts(scored) if state == "Completed"]
            if not completed:
                raise UserError(
                    f"{scored.name}: Azure no longer knows the run whose outputs are scored. Run "
                    "`make experiment TARGET=azure FRESH=1`."
                )
            self._names[scored.run.folder] = completed[-1]
        return self._names[scored.run.folder]

    def _follow(self) -> None:
        pause = PAUSE_S
        while self._under_way:
            ended = [remote for remote in self._under_way if self._has_ended(remote)]
            for remote in ended:
                self._under_way.remove(remote)
                self._keep(remote)
            pause = PAUSE_S if ended else min(1.5 * pause, LONGEST_PAUSE_S)
            if self._under_way and not ended:
                time.sleep(pause)

    def _has_ended(self, remote: Remote) -> bool:
        state = self._asked(self._service.find, remote.name) or "NotStarted"
        if state != remote.state:
            _say(f"{remote.work.name}: {state}")
            remote.state, remote.said = state, time.monotonic()
        elif time.monotonic() - remote.said > SAID_EVERY_S:
            _say(f"{remote.work.name}: still {state}, {time.monotonic() - remote.since:.0f} s")
            remote.said = time.monotonic()
        most = self._experiment.azure.timeout_s
        if state not in ENDED and time.monotonic() - remote.since > most:
            self._asked(self._service.cancel, remote.name)
            raise UserError(
                f"{remote.work.name}: {remote.name} did not end within {most:g} s "
                "(azure.timeout_s of experiment.yaml), so it was cancelled. Raise the limit, or "
                f"look at {self._asked(self._service.url, remote.name)}"
            )
        return state in ENDED

    def _keep(self, remote: Remote) -> None:
        """Put a run's rows into the store; what has no row, or no run, failed."""
        work = remote.work
        missing = "Azure has no answer for this row"
        rows: Iterable[Row] = ()
        if remote.state == "Completed":
            rows = self._asked(lambda name: list(self._service.rows(name)), remote.name)
        else:
            error = self._asked(self._service.error, remote.name)
            missing = f"the run {remote.name} is {remote.state} in Azure: {error}"
        model, taken = _model(work), aggregation.wanted(work.flow) if work.evaluator else None
        kept = {row.row: _completed(row, work.flow, model, taken) for row in rows}
        work.done.clear()
        work.run.forget()
        for number in _expected(work):
            failure = {"type": remote.state, "message": missing}
            row = kept.get(number) or Row(number, {}, None, failure)
            work.run.append(row)
            if not row.failed:
                work.done.add(number)
        work.run.close()
        if work.evaluator:
            done = remote.state == "Completed"
            found = self._asked(self._service.metrics, remote.name) if done else {}
            self.evaluated.append(Evaluated(work, found))
        for evaluation in self._evaluations:
            if evaluation.scored is work:
                self._begin(evaluation)

    def _asked(self, ask: Callable[[str], T], name: str) -> T:
        """Ask the service, again while a fault may pass."""
        pause, until = PAUSE_S, time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask(name)
            except Unavailable as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"Azure did not answer for {PATIENCE_S:g} s: {error}. The runs go on "
                        "there; the same task will find them."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _say(text: str) -> None:
    print(text, flush=True)


def _packed(work: Work, folder: Path) -> flows.Flow:
    """The flow in the work's variant in a folder of its own; a Python callable as a flex flow."""
    packed = package.package(work.flow, Variant(work.variant, {}, {}, work.definition), folder)
    if packed.kind != "python":
        return packed
    (folder / "flow.flex.yaml").write_text(f"entry: {packed.entry}\n", encoding="utf-8")
    return replace(packed, kind="flex", file="flow.flex.yaml")


def _expected(work: Work) -> Iterator[int]:
    """The numbers of the rows that a run must answer: of an evaluation, those there to score."""
    if work.scored is None:
        return iter(range(len(work.table)))
    return (row.row for row in work.scored.run.rows() if not row.failed)


def _completed(row: Row, flow: flows.Flow, model: str, wanted: Iterable[str] | None) -> Row:
    usage = dict(zip([model], row.usage.values(), strict=False))
    taken = {} if wanted is None else aggregation.inputs(flow, wanted, row.outputs or {})
    return replace(row, usage=usage, aggregation=taken)


def _model(work: Work) -> str:
    """The model that a DAG's nodes ask, for its price; Azure counts tokens over all of them."""
    nodes = work.definition.get("nodes", [])
    asked = [node.get("inputs") or {} for node in nodes if node.get("type") == "llm"]
    models = {str(given.get("deployment_name") or given.get("model") or "") for given in asked}
    return models.pop() if len(models) == 1 else SEVERAL
