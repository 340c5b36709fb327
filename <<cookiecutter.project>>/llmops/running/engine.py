"""Runs rows through a flow's worker process: timeouts, tries, back-off, a restart if it dies."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llmops.config import Limits
from llmops.errors import UserError
from llmops.files import unwritable
from llmops.running.worker import LINE_LIMIT
from llmops.runs import Row

LONGEST_PAUSE_S = 60.0
_PACKAGE = " Add the package that has it to the group `flow` of pyproject.toml, then `make lock`."
HINTS = {
    **dict.fromkeys(("ModuleNotFoundError", "PackageToolNotFoundError"), _PACKAGE),
    "PromptFlowMissing": (
        " It is in the group `promptflow` of pyproject.toml, which a task started with `make` "
        "installs where a flow needs it; `make eject FLOW=<the flow's folder>` writes the flow as "
        "Python that does not."
    ),
}
"""What to do about an error of some type, by its name."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """A flow in one variant, as a worker loads it; `name` is unique within an experiment.

    `connections` are in prompt flow's dictionary form, `models` maps a connection to the model that
    is asked for instead of the one the flow names. `init` are the arguments of an entry's class.
    `places` are folders in which the images are that rows name, the first one first; after them
    comes the flow's own. `keep_requests` says whether rows keep what they ask of models. `defaults`
    are as in `flows.Flow`.
    """

    name: str
    kind: str
    folder: Path
    file: str
    entry: str = ""
    definition: dict[str, Any] = field(default_factory=dict)
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    keep_requests: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def searched(self) -> list[str]:
        """Every folder in which an image of a row may be."""
        return [*self.places, str(self.folder.resolve())]


class WorkerDied(Exception):  # noqa: N818  # a state of the world, not a mistake
    """The worker process ended while a row was under way."""


class Worker:
    """A child process that runs the flows of one folder; started at the first request."""

    def __init__(self, folder: Path, environment: Mapping[str, str], log: Path) -> None:
        self._folder = folder.resolve()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._environment = {
            **os.environ,
            **environment,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        }
        self._log = log
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._parts: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self.hung: set[int] = set()
        """The requests that were given up, and still keep a thread of the process."""
        self._loaded: dict[str, asyncio.Task[None]] = {}
        self._ids = itertools.count()
        self._starting = asyncio.Lock()

    async def load(self, job: Job) -> None:
        """Import and build the flow.

        Raises:
            UserError: it does not import or is not a valid flow.
        """
        await self._alive()
        if job.name not in self._loaded:
            self._loaded[job.name] = asyncio.create_task(self._load(job))
        await asyncio.shield(self._loaded[job.name])

    async def run(
        self, job: Job, row: int, inputs: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """One try of one row: the worker's answer, or an error in the same form."""
        await self.load(job)
        try:
            request = {
                "op": "run",
                "job": job.name,
                "row": row,
                "inputs": inputs,
                "places": job.searched,
            }
            async with asyncio.timeout(timeout_s):  # wait_for may swallow a cancellation
                return await self._ask(request)
        except TimeoutError:
            return _too_late(timeout_s)
        except WorkerDied as error:
            return _died(error)

    async def stream(
        self, job: Job, row: int, inputs: dict[str, Any], timeout_s: float
    ) -> AsyncIterator[dict[str, Any]]:
        """One try of one row: {"part": {output: text}} as each comes, at last what `run` returns.

        `timeout_s` is how long each of them may take. A caller that stops listening ends the row.
        """
        await self.load(job)
        answer: dict[str, Any] = {"part": {}}
        number = next(self._ids)
        parts = self._parts[number] = asyncio.Queue()
        try:
            request = {
                "op": "stream",
                "job": job.name,
                "row": row,
                "inputs": inputs,
                "places": job.searched,
            }
            await self._send(number, request)
            while "part" in answer:
                async with asyncio.timeout(timeout_s):
                    answer = await parts.get()
                yield answer
        except TimeoutError:
            yield _too_late(timeout_s)
        except WorkerDied as error:
            yield _died(error)
        finally:
            del self._parts[number]
            if "part" in answer and self.alive:
                self.hung.add(number)
                with suppress(WorkerDied):
                    await self._send(number, {"op": "cancel"})

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    async def aggregate(
        self, job: Job, rows: Path, total: int | None = None, repeats: int = 1
    ) -> dict[str, dict[str, Any]]:
        """Metrics of a finished run: name → value, ci95, scored, note; of repeats, repeat_sd too.

        `total` is how many rows the dataset has; default: as many as the last row's number says.
        What a later comparison needs is written beside the rows, see `llmops.runs.Draws`.

        Raises:
            UserError: the flow's aggregation failed.
        """
        await self.load(job)
        request = {
            "op": "aggregate",
            "job": job.name,
            "rows": str(rows.resolve()),
            "total": total,
            "repeats": repeats,
            "places": job.searched,
        }
        answer = await self._demand(job, request, "its aggregation failed")
        metrics: dict[str, dict[str, Any]] = answer["metrics"]
        return metrics

    async def close(self) -> None:
        """End the process and what it has started; rows that still run in it are given up."""
        for loading in self._loaded.values():
            loading.cancel()
        await asyncio.gather(*self._loaded.values(), return_exceptions=True)
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            if self._reader is not None:
                await self._reader
            self._process = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    async def _load(self, job: Job) -> None:
        described = {**vars(job), "folder": str(job.folder.resolve())}
        await self._demand(job, {"op": "load", "job": described}, "cannot be loaded")

    async def _demand(self, job: Job, request: dict[str, Any], trouble: str) -> dict[str, Any]:
        """An answer without which there is no going on."""
        try:
            answer = await self._ask(request)
        except WorkerDied as error:
            answer = {"error": {"type": "WorkerDied", "message": str(error)}}
        if told := answer.get("error"):
            said = f"{told['type']}: {told['message']}".rstrip(".")
            raise UserError(
                f"{job.folder / job.file}: {trouble}: {said}.{HINTS.get(told['type'], '')} "
                f"See {self._log}."
            )
        return answer

    async def _alive(self) -> None:
        async with self._starting:
            if self.alive:
                return
            self._loaded = {}
            self.hung.clear()
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="llmops-")
            with self._open_log() as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "llmops.running.worker",
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    cwd=self._folder,
                    env={**self._environment, "TMPDIR": self._scratch.name},
                    limit=LINE_LIMIT,
                    start_new_session=True,  # Ctrl-C is the parent's to handle
                )
            self._reader = asyncio.create_task(self._read(self._process))

    def _open_log(self) -> IO[bytes]:
        """What the process prints is kept; raises UserError where it cannot be."""
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            return self._log.open("ab")
        except OSError as error:
            raise unwritable(self._log, error) from error

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send(number, request)
            return await self._waiting[number]
        except asyncio.CancelledError:
            self.hung.add(number)
            raise
        finally:
            self._waiting.pop(number, None)

    async def _send(self, number: int, request: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise WorkerDied("the flow's process is not running")
        line = json.dumps({"id": number, **request}, default=str) + "\n"
        try:
            process.stdin.write(line.encode())
            await process.stdin.drain()
        except ConnectionError as error:
            # Until it is gone it counts as alive, and row after row would fail here.
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise WorkerDied("the flow's process ended before it took the row") from error

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            answer = json.loads(line)
            self._hand_on(answer.pop("id"), answer)
        code = await process.wait()
        _kill_group(process.pid)
        died = WorkerDied(f"the flow's process ended (exit code {code})")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(died)
        for parts in self._parts.values():
            parts.put_nowait(_died(died))

    def _hand_on(self, number: int, answer: dict[str, Any]) -> None:
        if "part" not in answer:
            self.hung.discard(number)
        if (parts := self._parts.get(number)) is not None:
            parts.put_nowait(answer)
        elif (future := self._waiting.get(number)) is not None and not future.done():
            future.set_result(answer)


def _too_late(timeout_s: float) -> dict[str, Any]:
    message = f"no answer within {timeout_s:g} s (limits.timeout_s)"
    return {"error": {"type": "Timeout", "message": message, "retryable": True}}


def _died(error: WorkerDied) -> dict[str, Any]:
    return {"error": {"type": "WorkerDied", "message": str(error)}}


def _kill_group(leader: int) -> None:
    """End what a worker has started and left behind; it leads a group of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


async def run_row(
    worker: Worker, job: Job, number: int, inputs: dict[str, Any], limits: Limits
) -> Row:
    """Run one row, again after a passing fault: 429, 5xx, a timeout, a lost connection."""
    for attempt in range(1, limits.retries + 2):
        answer = await worker.run(job, number, inputs, limits.timeout_s)
        error = answer.get("error")
        if error is None or not error.get("retryable") or attempt > limits.retries:
            break
        await asyncio.sleep(pause_s(attempt, error.get("retry_after")))
    return Row(
        row=number,
        inputs=inputs,
        outputs=answer.get("outputs"),
        error=error,
        latency_s=round(answer.get("latency_s", 0.0), 4),
        attempts=attempt,
        usage=answer.get("usage", {}),
        aggregation=answer.get("aggregation") or {},
        requests=answer.get("requests"),
    )


def pause_s(attempt: int, retry_after: float | None) -> float:
    """Seconds before the next try: what the endpoint asked for, else 1, 2, 4 … with jitter."""
    if retry_after is not None:
        return min(retry_after, LONGEST_PAUSE_S)
    return min(2.0 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
