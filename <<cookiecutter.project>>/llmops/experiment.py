"""`make experiment` and `make evaluate`: plan, run, evaluate, judge, and write it all down."""

from __future__ import annotations

import datetime
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmops import baseline, execution, gate, report, results, summary, validate, work
from llmops.config import Experiment
from llmops.errors import FAILED, OK, UserError
from llmops.execution import Executor
from llmops.files import check_writable, unwritable
from llmops.runs import STORE
from llmops.settings import Settings
from llmops.summary import SUMMARY, Evaluation, Llm, RunSummary, Summary
from llmops.validate import Checked
from llmops.work import Work

NO_RECORDING = (
    "{count} rows have no recording (a prompt, a parameter or the data changed). Let a model "
    "answer: put AOAI_API_KEY and AOAI_API_BASE into .env, or for a local one such as Ollama "
    'aoai={{"type": "open_ai", "base_url": "http://localhost:11434/v1", "model": "llama3.2"}}, '
    "then `make record`."
)


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


def run(settings: Settings, loader: Load = load) -> int:
    """Run every planned cell, then every evaluator, and write the report.

    `loader` gives the experiment, as `load` does.

    Returns:
        The exit code: 0, or 2 where rows failed or the gate failed.

    Raises:
        UserError: something that the user must fix first.
    """
    task = _begin(settings, loader)
    with _only_one():
        return _finish(task, work.cells(task.checked, task.executor.target))


def evaluate(settings: Settings) -> int:
    """Score the stored outputs of the last experiment again, with no call to the standard flow.

    Returns and raises as `run` does.
    """
    last = summary.load()
    if last.env != settings.env:
        raise UserError(
            f"ENV: '{settings.env}', but the last experiment was one of '{last.env}'. "
            f"Run `make evaluate ENV={last.env}`, or `make experiment` first."
        )
    task = _begin(settings, load)
    with _only_one():
        return _finish(task, work.stored(task.checked, last.runs, settings.variants))


@dataclass(frozen=True)
class _Task:
    settings: Settings
    experiment: Experiment
    executor: Executor
    checked: Checked
    start: float
    started_at: str


def _begin(settings: Settings, loader: Load) -> _Task:
    start = time.monotonic()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    experiment, checked = loader(settings, settings.variants)
    check_writable(SUMMARY)
    executor = execution.choose(settings, experiment)
    print(f"llm: {executor.mode}. {executor.note}", flush=True)
    return _Task(settings, experiment, executor, checked, start, started_at)


def _finish(task: _Task, runs: Sequence[Work]) -> int:
    experiment, executor = task.experiment, task.executor
    evaluations = work.evaluations(task.checked, experiment, executor.target, runs)
    _find_finished(task, [*runs, *evaluations])
    asked = executor.execute(runs, evaluations)
    cells = tuple(results.run_summary(item, experiment.prices) for item in runs)
    scored = tuple(results.evaluation(item) for item in evaluations)
    scores = tuple(score for item in evaluations for score in results.scores(item))
    failed = _failures([*runs, *evaluations], [*cells, *scored], asked.unrecorded)
    if all(item.failed == item.rows for item in cells or scored):
        raise UserError("\n".join(["No row completed, so there is no report.", *failed]))
    result = Summary(
        experiment=experiment.name,
        env=task.settings.env,
        target=task.settings.target,
        llm=Llm(
            mode=executor.mode,
            calls=asked.calls,
            cached=sum(item.saved_calls for item in (*runs, *evaluations)),
            note=executor.note,
        ),
        started_at=task.started_at,
        seconds=round(time.monotonic() - task.start, 2),
        runs=cells,
        evaluations=scored,
        scores=scores,
        gate=gate.judge(experiment.gate, scores, scored),
    )
    result = baseline.compared(result, experiment)
    summary.save(result)
    page = report.write(result)
    print("\n".join([report.table(result), *report.compared(result), *failed]))
    print(f"gate: {result.gate.verdict}")
    print(f"report: {page}")
    return FAILED if failed or result.gate.verdict == "fail" else OK


def _failures(
    works: Sequence[Work], counted: Sequence[RunSummary | Evaluation], unrecorded: int
) -> list[str]:
    """Why rows failed, for a person; empty where none did."""
    pairs = zip(works, counted, strict=True)
    told = results.failures(item for item, count in pairs if count.failed)
    return [*told, NO_RECORDING.format(count=unrecorded)] if unrecorded else told


def _find_finished(task: _Task, works: Sequence[Work]) -> None:
    """Look up the rows that need not run again; none with FRESH."""
    if task.settings.fresh:
        for item in works:
            if item.left:
                item.run.forget()
    work.find_finished(works)


@contextmanager
def _only_one(store: Path = STORE) -> Iterator[None]:
    """Two tasks must not write the same runs at once."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = (store / ".lock").open("w")
    except OSError as error:
        raise unwritable(store / ".lock", error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{store}: another task is running here. Wait until it ends."
            ) from error
        yield
