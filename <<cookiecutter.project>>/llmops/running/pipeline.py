"""The way of a row: standard flow → store → evaluators → store, many rows at once.

Rows flow through two bounded queues, so neither the data nor the results are held in memory. An
evaluation starts as soon as the row that it scores is finished.

Where recordings answer, each repeat has answers of its own, under an address of its own, so the
repeats run one after the other; a model is asked for all of them at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmops import answers
from llmops.answers import Answers
from llmops.config import Limits
from llmops.errors import UserError
from llmops.files import slug
from llmops.recordings import MISSING
from llmops.running.engine import Job, Worker, run_row
from llmops.running.progress import Progress
from llmops.runs import Row, read_rows
from llmops.work import Work, job

LOGS = Path("runs/logs")
GIVE_UP_AFTER = 5

Item = tuple[Work, int, Row | None]


class Pipeline:
    """Runs what is left of some works, then aggregates each evaluation's metrics."""

    def __init__(self, source: Answers, limits: Limits, progress: Progress) -> None:
        self._source = source
        self._limits = limits
        self._progress = progress
        self._workers: dict[Path, Worker] = {}
        self._jobs: dict[int, Job] = {}
        self._faults: dict[int, Counter[str]] = {}
        self._rows: asyncio.Queue[Item] = asyncio.Queue(2 * limits.concurrency)
        self._scores: asyncio.Queue[Item] = asyncio.Queue(2 * limits.concurrency)
        self.calls = 0
        self.unrecorded = 0

    async def run(self, runs: Sequence[Work], evaluations: Sequence[Work]) -> None:
        """Do every row that is left, and measure the evaluations that changed.

        Raises:
            UserError: a flow cannot be loaded, or an endpoint answers no row at all.
        """
        works = [*runs, *evaluations]
        async with AsyncExitStack() as stack:
            for work in works:
                stack.callback(work.run.close)
            stack.push_async_callback(self._close_workers)
            *others, last = self._stages(works)
            for repeats in others:
                await self._start([work for work in works if _waits(work, repeats)], repeats.start)
                await self._feed(runs, evaluations, repeats)
                await self._close_workers()
            await self._start([work for work in works if _busy(work, last)], last.start)
            await self._feed(runs, evaluations, last)
            scoring = {work.flow.folder for work in evaluations}
            await self._close_workers({work.flow.folder for work in runs} - scoring)
            await asyncio.gather(*(self._measure(work) for work in evaluations))

    def _stages(self, works: Sequence[Work]) -> list[range]:
        """The repeats that run at the same time; there is one stage at least."""
        repeats = max((work.repeats for work in works), default=1)
        if not self._source.by_repeat:
            return [range(repeats)]
        return [range(one, one + 1) for one in range(repeats)]

    async def _measure(self, work: Work) -> None:
        """Aggregate an evaluation, unless its rows are as they were when that was done."""
        work.run.close()
        if work.run.metrics() is None:
            worker, loaded = self._workers[work.flow.folder], self._jobs[id(work)]
            rows = len(work.table), work.repeats
            metrics = await worker.aggregate(loaded, work.run.path, *rows)
            work.run.save_metrics(metrics)

    async def _start(self, busy: Sequence[Work], repeat: int) -> None:
        """Start a worker for each flow folder with something to do, all at once."""
        if not busy:
            return
        connections = self._source.connections(repeat)
        variables = answers.environment(connections)
        for work in busy:
            folder = work.flow.folder
            log = LOGS / f"{slug(str(folder))}.log"
            self._workers.setdefault(folder, Worker(folder, variables, log))
            name = f"{work.variant} {work.evaluator or ''}"
            made = job(name, work.flow, work.definition, connections, work.tables)
            self._jobs[id(work)] = replace(made, keep_requests=work.keep_requests)
        await asyncio.gather(*(self._workers[w.flow.folder].load(self._jobs[id(w)]) for w in busy))

    async def _feed(
        self, runs: Sequence[Work], evaluations: Sequence[Work], repeats: range
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                consumers = [
                    group.create_task(self._consume(queue))
                    for queue in (self._rows, self._scores)
                    for _ in range(self._limits.concurrency)
                ]
                for work in runs:
                    await self._feed_run(work, repeats)
                for work in evaluations:
                    if work.scored is None:
                        for number in work.left_of(repeats):
                            await self._scores.put((work, number, None))
                await self._rows.join()
                await self._scores.join()
                for consumer in consumers:
                    consumer.cancel()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _feed_run(self, work: Work, repeats: range) -> None:
        if any(_waits(score, repeats) for score in work.scores):
            numbers = work.numbers(repeats)
            for row in read_rows(work.run.path):
                if not row.failed and row.row in numbers:
                    await self._score(work, row)
        for number in work.left_of(repeats):
            await self._rows.put((work, number, None))

    async def _consume(self, queue: asyncio.Queue[Item]) -> None:
        while True:
            work, number, scored = await queue.get()
            row = await self._row(work, number, scored)
            work.run.append(row)
            self._count(work, row)
            if not row.failed:
                await self._score(work, row)
            queue.task_done()

    async def _row(self, work: Work, number: int, scored: Row | None) -> Row:
        try:
            inputs = work.inputs(number, scored)
        except KeyError as error:
            reason = f"{error.args[0]} has no value in this row"
            return Row(number, {}, None, {"type": "Mapping", "message": reason})
        worker, loaded = self._workers[work.flow.folder], self._jobs[id(work)]
        return await run_row(worker, loaded, number, inputs, self._limits)

    async def _score(self, work: Work, row: Row) -> None:
        left = [score for score in work.scores if row.row not in score.done]
        # As in prompt flow, `${run.inputs.x}` is a column of the run's data.
        scored = replace(row, inputs=work.data(row.row)) if left else row
        for score in left:
            await self._scores.put((score, row.row, scored))

    def _count(self, work: Work, row: Row) -> None:
        self._progress.row(row.failed)
        self.calls += sum(calls for calls, *_ in row.usage.values())
        error = row.error or {}
        self.unrecorded += error.get("code") == MISSING
        faults = self._faults.setdefault(id(work), Counter())
        faults[_fault(error)] += 1
        _give_up(work, faults, error)

    async def _close_workers(self, folders: set[Path] | None = None) -> None:
        for folder in list(self._workers) if folders is None else folders & self._workers.keys():
            await self._workers.pop(folder).close()


def _waits(work: Work, repeats: range) -> bool:
    return next(work.left_of(repeats), None) is not None


def _busy(work: Work, repeats: range) -> bool:
    """Whether rows of these repeats, the last ones, or the metrics of all rows are still to do."""
    return _waits(work, repeats) or (work.evaluator is not None and work.run.metrics() is None)


def _fault(error: dict[str, Any]) -> str:
    """What kept a row from an answer; empty where it completed or the flow's own code failed."""
    if error.get("type") == "Timeout":
        return "Timeout"
    if "status" not in error or error.get("code") == MISSING:
        return ""
    return str(error["status"] or error["type"])


def _give_up(work: Work, faults: Counter[str], error: dict[str, Any]) -> None:
    """Stop at once when no row gets an answer: it saves money, and one message says it all."""
    finished, fault = faults.total(), _fault(error)
    enough = min(GIVE_UP_AFTER, len(work.table))
    if fault and not work.done and finished >= enough and faults[fault] == finished:
        raise UserError(
            f"{work.name}: none of the first {finished} rows got an answer: {error['type']}: "
            f"{str(error['message']).rstrip('.')}. See `make doctor`; finished rows are kept."
        )
