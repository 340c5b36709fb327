"""`make experiment` and `make evaluate`: plan, run, evaluate, judge, and write it all down."""

from __future__ import annotations

import asyncio
import datetime
import fcntl
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmops import config, gate, report, summary, validate, work
from llmops.answers import Answers
from llmops.config import Experiment, Price
from llmops.errors import FAILED, OK, Stopped, UserError
from llmops.metrics import percentile
from llmops.pipeline import Pipeline
from llmops.progress import Progress
from llmops.runs import STORE
from llmops.settings import Settings
from llmops.summary import Evaluation, Latency, Llm, RunSummary, Score, Summary, Tokens
from llmops.validate import Checked
from llmops.work import Work

NO_RECORDING = (
    "{count} rows have no recording: a prompt, a parameter or the data changed. Ask a model instead: "
    "put AOAI_API_KEY and AOAI_API_BASE into .env, or for a local one such as Ollama the line\n"
    '  aoai={{"type": "open_ai", "base_url": "http://localhost:11434/v1", "model": "llama3.2"}}\n'
    "then `make record` keeps its answers."
)


def run(settings: Settings) -> int:
    """Run every planned cell, then every evaluator, and write the report.

    Returns:
        The exit code: 0, or 2 where rows failed or the gate failed.

    Raises:
        UserError: something that the user must fix first.
    """
    task = _begin(settings)
    runs = work.cells(task.checked, task.source.target)
    return _finish(task, runs)


def evaluate(settings: Settings) -> int:
    """Score the stored outputs of the last experiment again, with no call to the standard flow.

    Returns and raises as `run` does.
    """
    last = summary.load()
    task = _begin(settings)
    return _finish(task, work.stored(task.checked, task.experiment, last.runs))


def load(settings: Settings) -> Experiment:
    """The experiment of the settings' environment, with its CONCURRENCY."""
    experiment = config.load(settings.env)
    if settings.concurrency is None:
        return experiment
    limits = experiment.limits.model_copy(update={"concurrency": settings.concurrency})
    return experiment.model_copy(update={"limits": limits})


@dataclass(frozen=True)
class _Task:
    settings: Settings
    experiment: Experiment
    source: Answers
    checked: Checked
    start: float
    started_at: str


def _begin(settings: Settings) -> _Task:
    start = time.monotonic()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    experiment = load(settings)
    source = Answers(experiment, settings.llm)
    print(f"llm: {source.mode}. {source.note}", flush=True)
    checked = validate.check(experiment, settings.variants)
    return _Task(settings, experiment, source, checked, start, started_at)


def _finish(task: _Task, runs: Sequence[Work]) -> int:
    experiment = task.experiment
    evaluations = work.evaluations(task.checked, experiment, task.source.target, runs)
    with _only_one():
        pipeline = _execute(task, runs, evaluations)
    scored = tuple(_evaluation(item) for item in evaluations)
    scores = tuple(score for item in evaluations for score in _scores(item))
    llm = Llm(
        mode=task.source.mode,
        calls=pipeline.calls,
        cached=sum(item.saved_calls for item in (*runs, *evaluations)),
        note=task.source.note,
    )
    result = Summary(
        experiment=experiment.name,
        env=task.settings.env,
        target=task.settings.target,
        llm=llm,
        started_at=task.started_at,
        seconds=round(time.monotonic() - task.start, 2),
        runs=tuple(_run_summary(item, experiment.prices) for item in runs),
        evaluations=scored,
        scores=scores,
        gate=gate.judge(experiment.gate, scores, scored),
    )
    summary.save(result)
    return _tell(result, report.write(result), pipeline.unrecorded)


def _tell(result: Summary, page: Path, unrecorded: int) -> int:
    """Print what a person wants to see last, and give the exit code."""
    print(report.table(result))
    if unrecorded:
        print(NO_RECORDING.format(count=unrecorded))
    failed = sum(item.failed for item in (*result.runs, *result.evaluations))
    print(f"gate: {result.gate.verdict}" + (f", {failed} rows failed" if failed else ""))
    print(f"report: {page}")
    return FAILED if failed or result.gate.verdict == "fail" else OK


def _execute(task: _Task, runs: Sequence[Work], evaluations: Sequence[Work]) -> Pipeline:
    works = [*runs, *evaluations]
    if task.settings.fresh:
        for item in works:
            if item.left:
                item.run.forget()
    work.find_finished(works)
    left = sum(item.left for item in works)
    with Progress(left) as progress:
        try:
            if left:
                task.source.open()
            pipeline = Pipeline(task.source, task.experiment.limits, progress)
            asyncio.run(_until_signal(pipeline, runs, evaluations))
        finally:
            task.source.close()
    return pipeline


async def _until_signal(
    pipeline: Pipeline, runs: Sequence[Work], evaluations: Sequence[Work]
) -> None:
    """Run the pipeline; Ctrl-C and SIGTERM end it with every finished row kept."""
    task = asyncio.ensure_future(pipeline.run(runs, evaluations))
    stopped: list[int] = []

    def stop(number: int) -> None:
        stopped.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        raise Stopped(stopped[0] if stopped else signal.SIGINT) from None


@contextmanager
def _only_one(store: Path = STORE) -> Iterator[None]:
    """Two tasks must not write the same runs at once."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = (store / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{store}: cannot be written ({error.strerror}). Make it writable.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{store}: another task is running here. Wait until it ends.") from error
        yield


def _run_summary(item: Work, prices: dict[str, Price]) -> RunSummary:
    failed, seconds, usage = 0, [], dict[str, list[int]]()
    for row in item.run.rows():
        failed += row.failed
        if not row.failed:
            seconds.append(row.latency_s)
        for model, counts in row.usage.items():
            total = usage.setdefault(model, [0, 0, 0])
            usage[model] = [a + b for a, b in zip(total, counts, strict=True)]
    prompt, completion = (sum(counts[at] for counts in usage.values()) for at in (1, 2))
    return RunSummary(
        variant=item.variant,
        parameters=item.parameters,
        dataset=item.dataset,
        rows=len(item.table),
        failed=failed,
        tokens=Tokens(prompt=prompt, completion=completion, total=prompt + completion),
        latency_s=Latency(p50=_seconds(seconds, 0.5), p95=_seconds(seconds, 0.95)),
        cost_usd=_cost(usage, prices),
        outputs=str(item.run.path),
    )


def _seconds(values: list[float], share: float) -> float | None:
    return round(percentile(values, share), 4) if values else None


def _cost(usage: dict[str, list[int]], prices: dict[str, Price]) -> float | None:
    """USD; null where a model that was used has no price."""
    if not usage or not set(usage) <= set(prices):
        return None
    return sum(
        (counts[1] * prices[model].prompt + counts[2] * prices[model].completion) / 1e6
        for model, counts in usage.items()
    )


def _evaluation(item: Work) -> Evaluation:
    return Evaluation(
        variant=item.variant,
        dataset=item.dataset,
        evaluator=item.evaluator or "",
        rows=len(item.table),
        failed=sum(row.failed for row in item.run.rows()),
        outputs=str(item.run.path),
    )


def _scores(item: Work) -> Iterator[Score]:
    for metric, measured in (item.run.metrics() or {}).items():
        yield Score(
            variant=item.variant,
            dataset=item.dataset,
            evaluator=item.evaluator or "",
            metric=metric,
            rows=len(item.table),
            **measured,
        )
