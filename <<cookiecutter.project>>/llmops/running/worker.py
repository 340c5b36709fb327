"""The child process of one flow folder: rows come in on stdin, results go out on stdout.

One process a flow folder, because Python imports a module name once: a second flow's `helper.py`
would silently be the first one's. Requests and answers are JSON lines with an `id`:

    {"id", "op": "load", "job": {"name", "kind", "folder", "file", "entry", "definition",
                                 "connections", "models", "init", "keep_requests", "defaults"}}
    {"id", "op": "run", "job": name, "row", "inputs", "places"}      one thread a row; `places` are
                    folders for the images that inputs name
    {"id", "op": "stream", …}                  the same; before the answer come lines {"id", "part"}
    {"id", "op": "cancel"}                     nobody waits for the rest of a stream; not answered
    {"id", "op": "aggregate", "job": name, "rows": path, "total", "repeats", "places"}
                    metrics of a finished run, over a dataset of `total` rows, each answered
                    `repeats` times; its draws go into its folder

The process ends when stdin closes, and what it has started with it: nothing outlives the parent.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llmops import code, images
from llmops.metrics import measure
from llmops.running import calls
from llmops.running.runners import CallableRunner, FlowError, Runner, means
from llmops.running.threads import Threads
from llmops.runs import Draws, Row, Run, read_rows

LINE_LIMIT = 64 * 1024 * 1024
TRACEBACKS = 20
SHORTEST_SECRET = 12


class Worker:
    """Runs what it is asked and answers on `channel`."""

    def __init__(self, channel: int) -> None:
        self._channel = os.fdopen(channel, "wb")
        self._lock = threading.Lock()
        self._runners: dict[str, Runner] = {}
        self._secrets: set[str] = set()
        self._keeping: set[str] = set()
        self._told = 0
        self._threads = Threads()
        self._streaming: set[int] = set()

    def serve(self, requests: Iterable[str]) -> None:
        """Answer requests until there are no more."""
        for line in requests:
            request = json.loads(line)
            if request["op"] == "cancel":
                self._streaming.discard(request["id"])
            elif request["op"] in ("run", "stream"):
                if request["op"] == "stream":
                    self._streaming.add(request["id"])
                self._threads.start(partial(self._answer, request))
            else:
                self._answer(request)

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            answer = getattr(self, f"_{request['op']}")(request)
        except BaseException as error:  # a flow may raise anything, SystemExit too
            self._log(traceback.format_exc())
            answer = {"error": self._failure(_describe(error, _place(error)))}
        try:
            line = _line({"id": request["id"], **answer})
        except Exception as error:  # an answer that JSON cannot hold
            line = _line({"id": request["id"], "error": self._failure(_describe(error))})
        self._write(line)

    def _write(self, line: bytes) -> None:
        with self._lock:
            self._channel.write(line)
            self._channel.flush()

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        job = request["job"]
        self._secrets |= set(_secrets(job["connections"]))
        with _without_collecting():
            self._runners[job["name"]] = _runner(job)
            if job.get("keep_requests"):
                self._keeping.add(job["name"])
                with suppress(ImportError):  # before a row does: what is not watched is not seen
                    importlib.import_module("openai")
            calls.watch()
        return {}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        runner = self._runners[request["job"]]

        def work() -> dict[str, Any]:
            outputs, aggregation = runner.run(_inputs(request), request["row"])
            return {"outputs": outputs, "aggregation": aggregation}

        return self._measured(request, work)

    def _stream(self, request: dict[str, Any]) -> dict[str, Any]:
        runner, number = self._runners[request["job"]], request["id"]

        def emit(part: dict[str, str]) -> None:
            if number not in self._streaming:
                raise Cancelled("nobody waits for the rest")
            self._write(_line({"id": number, "part": part}))

        def work() -> dict[str, Any]:
            return {"outputs": runner.stream(_inputs(request), request["row"], emit)}

        try:
            return self._measured(request, work)
        finally:
            self._streaming.discard(number)

    def _measured(
        self, request: dict[str, Any], work: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        row = calls.Calls(requests=[] if request["job"] in self._keeping else None)
        calls.ROW.set(row)
        start = time.perf_counter()
        answer: dict[str, Any] = {"outputs": None}
        try:
            answer |= work()
        except BaseException as error:  # a flow may raise anything, SystemExit too
            answer["error"] = self._failure(row.error or _describe(error))
            self._tell(request["row"], answer["error"], error)
        answer |= {"latency_s": time.perf_counter() - start, "usage": row.usage}
        if row.requests is not None:
            answer["requests"] = json.loads(self._hide(json.dumps(row.requests)))
        return answer

    def _tell(self, row: int, described: dict[str, Any], error: BaseException) -> None:
        """Write a failed row to the log: a line each, the traceback only of the first ones."""
        self._log(f"row {row}: {described['type']}: {described['message']}"[:1000])
        self._told += 1
        if self._told <= TRACEBACKS:
            self._log(getattr(error, "trace", "") or traceback.format_exc())

    def _failure(self, described: dict[str, Any]) -> dict[str, Any]:
        return {**described, "message": self._hide(described["message"])}

    def _log(self, text: str) -> None:
        print(self._hide(text), file=sys.stderr)

    def _hide(self, text: str) -> str:
        """An error may quote a key; a log and a report must not."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _aggregate(self, request: dict[str, Any]) -> dict[str, Any]:
        counted = _Counted(Path(request["rows"]), request["places"])
        asked = calls.Calls()
        calls.ROW.set(asked)
        aggregation = self._runners[request["job"]].aggregate(counted) or means(counted)
        why_not = "the aggregation asks a model" if asked.usage else ""
        repeats = request["repeats"]
        least = -(-(max(counted.numbers, default=-1) + 1) // repeats)
        rows = max(request["total"] or 0, least)
        measured = measure(aggregation, counted.numbers, rows, why_not, repeats)
        Run(Path(request["rows"]).parent).save_draws(
            Draws(rows, measured.draws, measured.alone, measured.why_alone)
        )
        return {
            "metrics": {
                name: {
                    "value": metric.value,
                    "ci95": metric.ci95,
                    "scored": counted.scored(name),
                    "note": metric.note,
                    **({"repeat_sd": metric.repeat_sd} if repeats > 1 else {}),
                }
                for name, metric in measured.metrics.items()
            }
        }


class Cancelled(Exception):  # noqa: N818  # no mistake of the flow's
    """The one who asked for a stream is gone."""


class _Counted:
    """The completed rows of a run on disk, and in how many of them each output has a value."""

    def __init__(self, path: Path, places: list[str]) -> None:
        self._path, self._places = path, places
        self.numbers: list[int] = []
        self._values: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Row]:
        self.numbers.clear()
        self._values.clear()
        for row in read_rows(self._path):
            if not row.failed:
                self.numbers.append(row.row)
                outputs = row.outputs or {}
                self._values.update({name: value is not None for name, value in outputs.items()})
                yield replace(row, inputs=images.located(row.inputs, self._places))

    def scored(self, metric: str) -> int:
        """Rows that carry the metric's value; every row where it is no output of its own."""
        return self._values.get(metric, len(self.numbers))


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Nothing that an import makes is garbage, and looking for some is a tenth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor is it looked at later
        gc.enable()


def _runner(job: dict[str, Any]) -> Runner:
    plain, folder = job["kind"] == "python", Path(job["folder"])
    imported = code.imported(path for deep in ("*.py", "*/*.py") for path in folder.glob(deep))
    if plain and "promptflow" not in imported:
        if any("openai" in name for name in imported):  # watched from its first call on
            import openai  # noqa: F401
        return CallableRunner(job)
    from llmops.running import promptflow_runner

    return (promptflow_runner.plain if plain else promptflow_runner.load)(job)


def _inputs(request: dict[str, Any]) -> dict[str, Any]:
    """A row's inputs, with the images that they name where these are."""
    inputs: dict[str, Any] = images.located(request["inputs"], request["places"])
    return inputs


def _line(answer: dict[str, Any]) -> bytes:
    """One line of JSON; raises what json does, and ValueError where the line would be too long."""
    line = json.dumps(answer, default=str).encode() + b"\n"
    if len(line) > LINE_LIMIT:
        raise ValueError(f"the answer has {len(line):,} bytes, at most {LINE_LIMIT:,} can be kept")
    return line


def _secrets(connections: dict[str, dict[str, Any]]) -> Iterator[str]:
    for link in connections.values():
        for key in link.get("secret_keys", ()):
            secret = str(link["value"].get(key, ""))
            if len(secret) >= SHORTEST_SECRET:
                yield secret


def _describe(error: BaseException, place: str = "") -> dict[str, Any]:
    """The innermost cause in words; it is the flow's own fault, so trying again does not help."""
    while (inner := _cause(error)) is not None:
        error = inner
    kind = error.kind if isinstance(error, FlowError) else type(error).__name__
    return {"type": kind, "message": f"{str(error) or kind}{place}"}


def _place(error: BaseException | None) -> str:
    """Where a flow could not be loaded: the node, and the line of the flow's own code."""
    node, line, folder = "", "", str(Path.cwd())
    while error is not None:
        node = getattr(error, "_node_name", "") or node
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.startswith(folder + os.sep):
                line = f"{frame.filename[len(folder) + 1 :]}, line {frame.lineno}"
        error = _cause(error)
    told = ", ".join(filter(None, (f"node '{node}'" if node else "", line)))
    return f" ({told})" if told else ""


def _cause(error: BaseException) -> BaseException | None:
    """What an error comes from; some of prompt flow's keep a text in place of an exception."""
    inner = getattr(error, "inner_exception", None)
    return inner if isinstance(inner, BaseException) else error.__cause__


def main() -> None:
    """Keep stdin and stdout for requests and answers; what the flow prints goes to the log."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for descriptor in (requests, answers):  # held open elsewhere, they would outlive this process
        os.register_at_fork(after_in_child=partial(os.close, descriptor))
    sys.path.insert(0, str(Path.cwd()))
    Worker(answers).serve(os.fdopen(requests, encoding="utf-8"))
    # Rows that hang in a thread must not keep the process, nor stay behind what they have started.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
