"""Row workers behind a server: the least busy one takes the next row; the dead are replaced."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from llmops.errors import UserError
from llmops.running.engine import Job, Worker, pause_s

Answer = dict[str, Any]

MOST_HUNG = 16
"""Rows that may hang in one worker; then another one takes its place."""
LOOK_S = 0.5
LONGEST_WAIT_S = 30.0
WHEN_DEAD = 1
"""How often a row is given to another worker because its own died; it may be why."""


class NotReadyError(Exception):
    """No worker has loaded the flow."""


class _Slot:
    """A worker's place in the pool."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.busy = 0
        self.loaded = False
        self.failures = 0
        self.work: asyncio.Task[None] | None = None

    @property
    def load(self) -> int:
        """Rows that keep a thread."""
        return self.busy + len(self.worker.hung)

    @property
    def ready(self) -> bool:
        """Whether it can take a row."""
        return self.loaded and self.worker.alive


class Pool:
    """So many workers for one flow; `make` gives a new one.

    A row takes at most `timeout_s`, its `retries` after a passing fault of the model included.
    """

    def __init__(
        self, job: Job, make: Callable[[], Worker], size: int, timeout_s: float, retries: int
    ) -> None:
        self._job, self._make = job, make
        self._timeout_s, self._retries = timeout_s, retries
        self._slots = [_Slot(make()) for _ in range(size)]
        self._retiring: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._rows = itertools.count()

    @property
    def ready(self) -> bool:
        """Whether a row would be taken."""
        return any(slot.ready for slot in self._slots)

    async def start(self) -> None:
        """Load the flow in every worker; returns when the first has it.

        Raises:
            UserError: it cannot be loaded.
        """
        first, *others = self._slots
        await self._load(first)
        for slot in others:
            slot.work = asyncio.create_task(self._restore(slot))
        self._keeper = asyncio.create_task(self._keep())

    async def run(self, inputs: dict[str, Any]) -> Answer:
        """Run one row: what a worker answers, or an error in the same form (`Timeout` too).

        Raises:
            NotReadyError: no worker is up.
        """
        end, deaths = time.monotonic() + self._timeout_s, 0
        for attempt in itertools.count(1):
            slot = self._least_busy()
            slot.busy += 1
            try:
                left = end - time.monotonic()
                answer = await slot.worker.run(self._job, next(self._rows), inputs, left)
            except UserError as broken:  # it died just now, and does not load again
                answer = {"error": {"type": "WorkerDied", "message": str(broken)}}
            finally:
                slot.busy -= 1
            error = answer.get("error")
            if error is None or error["type"] == "Timeout":
                return self._told(answer)
            if error["type"] == "WorkerDied":
                deaths += 1
                if deaths > WHEN_DEAD or not await self._someone(end):
                    return answer
                continue
            pause = pause_s(attempt, error.get("retry_after"))
            late = time.monotonic() + pause >= end
            if not error.get("retryable") or attempt > self._retries or late:
                return answer
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def stream(self, inputs: dict[str, Any]) -> AsyncIterator[Answer]:
        """Run one row: {"part": {output: text}} as each comes, at last the answer; no second try.

        Raises:
            NotReadyError: no worker is up.
        """
        slot = self._least_busy()
        slot.busy += 1
        try:
            row = next(self._rows)
            async for answer in slot.worker.stream(self._job, row, inputs, self._timeout_s):
                yield self._told(answer)
        finally:
            slot.busy -= 1

    async def close(self) -> None:
        """End every worker; rows that are under way are given up."""
        tasks = [slot.work for slot in self._slots if slot.work]
        tasks += [*self._retiring, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(slot.worker.close() for slot in self._slots))

    def _told(self, answer: Answer) -> Answer:
        """The pool's own limit in the words of a timeout, whatever was left of it."""
        if (answer.get("error") or {}).get("type") == "Timeout":
            answer["error"]["message"] = f"no answer within {self._timeout_s:g} s"
        return answer

    def _least_busy(self) -> _Slot:
        ready = [slot for slot in self._slots if slot.ready]
        if not ready:
            raise NotReadyError
        return min(ready, key=lambda slot: slot.load)

    async def _someone(self, end: float) -> bool:
        """Wait until a worker is up, at the longest to the end of the row's time."""
        while not self.ready and time.monotonic() + LOOK_S < end:
            await asyncio.sleep(LOOK_S / 5)
        return self.ready

    async def _load(self, slot: _Slot) -> None:
        await slot.worker.load(self._job)
        slot.loaded, slot.failures = True, 0

    async def _keep(self) -> None:
        """Bring dead workers back, and replace those in which too many rows hang."""
        while True:
            await asyncio.sleep(LOOK_S)
            for slot in self._slots:
                if slot.work is not None and not slot.work.done():
                    continue
                if not slot.worker.alive:
                    slot.loaded = False
                    slot.work = asyncio.create_task(self._restore(slot))
                elif len(slot.worker.hung) >= MOST_HUNG:
                    slot.work = asyncio.create_task(self._replace(slot))

    async def _restore(self, slot: _Slot) -> None:
        """Start a worker again; the longer it fails, the longer the pause before."""
        if slot.failures:
            await asyncio.sleep(min(2.0**slot.failures, LONGEST_WAIT_S))
        slot.failures += 1
        with suppress(UserError):  # the worker's log says why
            await self._load(slot)

    async def _replace(self, slot: _Slot) -> None:
        """Load the flow in a new worker first; the old one may finish what it has."""
        new = _Slot(self._make())
        try:
            await self._load(new)
        except BaseException as error:
            await new.worker.close()
            if isinstance(error, UserError):  # the worker's log says why
                return
            raise
        old, self._slots[self._slots.index(slot)] = slot, new
        retiring = asyncio.create_task(self._retire(old))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    async def _retire(self, slot: _Slot) -> None:
        end = time.monotonic() + self._timeout_s + 1
        try:
            while slot.busy and time.monotonic() < end:
                await asyncio.sleep(LOOK_S)
        finally:
            await slot.worker.close()
