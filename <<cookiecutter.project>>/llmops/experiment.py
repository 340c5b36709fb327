"""`make experiment` and `make evaluate`: plan, run, evaluate, judge, and write it all down."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llmops import report, results, summary, tracking, validate, work
from llmops.config import Experiment
from llmops.errors import FAILED, OK, UserError
from llmops.files import check_writable, locked
from llmops.indexing import manifest, upkeep
from llmops.running import execution
from llmops.running.execution import Counts, Executor
from llmops.runs import STORE
from llmops.settings import Settings
from llmops.summary import SUMMARY, Base, Evaluation, Index, Llm, RunSummary, Score, Summary
from llmops.validate import Checked
from llmops.verdict import base, baseline, gate, judges
from llmops.verdict.base import Side, Version
from llmops.work import Work

LIVE = {"record": "live"}
"""A base is not recorded: its recordings would be gone with its files."""


def load(settings: Settings, selection: Sequence[str]) -> tuple[Experiment, Checked]:
    """The experiment of the settings' environment with its CONCURRENCY, and what was checked.

    Raises:
        UserError: every problem of experiment.yaml and of what it names, one a line.
    """
    experiment, checked = validate.load(settings.env, selection)
    return limited(experiment, settings), checked


def limited(experiment: Experiment, settings: Settings) -> Experiment:
    """The experiment with CONCURRENCY in place of its own, where that is set."""
    if settings.concurrency is None:
        return experiment
    limits = experiment.limits.model_copy(update={"concurrency": settings.concurrency})
    return experiment.model_copy(update={"limits": limits})


Load = Callable[[Settings, Sequence[str]], tuple[Experiment, Checked]]


def run(settings: Settings, loader: Load = load, version: Version | None = None) -> int:
    """Run every planned cell, then every evaluator, and write the report.

    `loader` gives the experiment, as `load` does. What `version` measures is compared with.

    Returns:
        The exit code: 0, or 2 where rows failed or the gate stops the run.

    Raises:
        UserError: something that the user must fix first.
    """
    task = _begin(settings, loader)
    with only_one():
        index = upkeep.refresh(task.experiment, task.checked.flow, settings)
        task = replace(task, index=index)
        before = _before(task, version) if version else None
        return _finish(task, work.cells(task.checked, task.executor.target), before)


def compare(settings: Settings) -> int:
    """As `run`, with the version that BASE names run before it, and compared with.

    Returns and raises as `run` does, and where BASE names no commit.
    """
    with base.checked_out(settings.base) as version:
        return run(settings, version=version)


def evaluate(settings: Settings) -> int:
    """Score stored outputs again, with no call to the standard flow.

    They are those of the last experiment, or of the folders of older runs that RUNS names.
    Returns and raises as `run` does.
    """
    older = [results.kept(Path(folder)) for folder in settings.runs]
    stored = older or _last(settings)
    task = _begin(settings, load)
    if not older:
        task = replace(task, index=summary.load().index)
    with only_one():
        return _finish(task, work.stored(task.checked, stored, settings.variants), None)


def _last(settings: Settings) -> Sequence[RunSummary]:
    last = summary.load()
    if last.env != settings.env:
        raise UserError(
            f"ENV: '{settings.env}', but the last experiment was one of '{last.env}'. "
            f"Run `make evaluate ENV={last.env}`, or `make experiment` first."
        )
    return last.runs


@dataclass(frozen=True)
class _Task:
    settings: Settings
    experiment: Experiment
    executor: Executor
    checked: Checked
    start: float
    started_at: str
    index: Index | None = None


def _begin(settings: Settings, loader: Load) -> _Task:
    start = time.monotonic()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    experiment, checked = loader(settings, settings.variants)
    check_writable(SUMMARY)
    executor = execution.choose(settings, experiment)
    print(f"llm: {executor.mode}. {executor.note}", flush=True)
    report.prepare()
    return _Task(settings, experiment, executor, checked, start, started_at)


@dataclass(frozen=True)
class _Measured:
    works: list[Work]
    labels: Sequence[Work]
    asked: Counts
    runs: tuple[RunSummary, ...]
    evaluations: tuple[Evaluation, ...]
    scores: tuple[Score, ...]

    @property
    def failed(self) -> list[str]:
        """Why rows failed, for a person; empty where none did."""
        counted: list[RunSummary | Evaluation] = [*self.runs, *self.evaluations]
        pairs = zip(self.works, counted, strict=True)
        broken = [item for item, count in pairs if count.failed]
        told = results.failures([*broken, *self.labels])
        return [*told, self.asked.remedy] if self.asked.remedy else told


def _measure(task: _Task, runs: Sequence[Work], labels: Sequence[Work] = ()) -> _Measured:
    experiment, executor = task.experiment, task.executor
    evaluations = work.evaluations(task.checked, experiment, executor.target, runs)
    _find_finished(task, [*runs, *evaluations, *labels])
    asked = executor.execute(runs, evaluations, labels)
    cells = tuple(results.run_summary(item, experiment.prices) for item in runs)
    for item, cell in zip(runs, cells, strict=True):
        results.keep(item, cell)
    return _Measured(
        [*runs, *evaluations],
        labels,
        asked,
        cells,
        tuple(results.evaluation(item) for item in evaluations),
        tuple(score for item in evaluations for score in results.scores(item)),
    )


def _before(task: _Task, version: Version) -> Base:
    """What the version measures of what it has in common with the files as they are now."""
    found = Base(ref=version.ref, commit=version.commit)
    print(f"base: {found.name}", flush=True)
    try:
        side, measured = _measure_version(task, version)
        if count := measured.asked.unrecorded:
            raise UserError(f"{count} rows have no recording there")
    except UserError as error:
        reason = str(error).replace(f"{version.folder}/", "")
        return found.model_copy(update={"not_comparable": (f"{version.ref}: {reason}",)})
    scores = {"runs": measured.runs, "evaluations": measured.evaluations, "scores": measured.scores}
    return base.comparable(
        found.model_copy(update=scores), Side(task.experiment, task.checked), side
    )


def _measure_version(task: _Task, version: Version) -> tuple[Side, _Measured]:
    mode = LIVE.get(task.executor.mode, task.executor.mode)
    settings = replace(task.settings, llm=mode if task.settings.target == "local" else None)
    experiment, checked = validate.load(settings.env, settings.variants, version.folder)
    repeats = task.experiment.repeats  # how exactly is measured, not what; and both use one store
    experiment = limited(experiment, settings).model_copy(update={"repeats": repeats})
    checked.repeats = repeats
    ours = manifest.place(task.experiment, task.checked.flow) if task.checked.flow else None
    older = [ours.folder] if ours else []
    upkeep.refresh(experiment, checked.flow, settings, version.folder, older)
    executor = execution.choose(settings, experiment, version.folder)
    then = replace(task, experiment=experiment, checked=checked, executor=executor)
    return Side(experiment, checked), _measure(then, work.cells(checked, executor.target))


def _finish(task: _Task, runs: Sequence[Work], before: Base | None) -> int:
    experiment, executor = task.experiment, task.executor
    labels = work.labels(task.checked, experiment, executor.here)
    measured = _measure(task, runs, labels)
    failed = measured.failed
    counted: Sequence[RunSummary | Evaluation] = measured.runs or measured.evaluations
    if all(item.failed == item.rows for item in counted) and not measured.asked.unrecorded:
        raise UserError("\n".join([_no_report(), *failed]))
    result = Summary(
        experiment=experiment.name,
        env=task.settings.env,
        target=task.settings.target,
        llm=Llm(
            mode=executor.mode,
            calls=measured.asked.calls,
            cached=sum(item.saved_calls for item in (*measured.works, *labels)),
            note=executor.note,
        ),
        index=task.index,
        started_at=task.started_at,
        seconds=round(time.monotonic() - task.start, 2),
        runs=measured.runs,
        evaluations=measured.evaluations,
        scores=measured.scores,
        judges=judges.measured(labels, experiment),
        base=before,
    )
    result = gate.judged(baseline.compared(result, experiment), experiment)
    summary.save(result)
    page = report.write(result)
    print("\n".join([report.table(result), *_told(result), *failed]))
    print("\n".join(gate.open_lines(result.gate)))
    print(f"report: {page}")
    tracking.log(result, experiment, task.checked, executor.target)
    return FAILED if failed or result.gate.stops else OK


def _no_report() -> str:
    """What is said where no row completed: tasks that look at reports/ would show another run."""
    if not SUMMARY.exists():
        return "No row completed, so there is no report."
    return f"No row completed, so there is no report: {SUMMARY.parent}/ is still an earlier run's."


def _told(result: Summary) -> list[str]:
    """What is printed below the table."""
    return [*report.judged(result), *report.compared(result)]


def _find_finished(task: _Task, works: Sequence[Work]) -> None:
    """Look up the rows that need not run again; none with FRESH."""
    if task.settings.fresh:
        for item in works:
            if item.left:
                item.run.forget()
    work.find_finished(works)


@contextmanager
def only_one(store: Path = STORE) -> Iterator[None]:
    """Two tasks must not write the same runs at once."""
    taken = f"{store}: another task is running here. Wait until it ends."
    with locked(store / ".lock", taken):
        yield
