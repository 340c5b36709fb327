"""The child process of one flow folder: rows come in on stdin, results go out on stdout.

One process a flow folder, because Python imports a module name once: a second flow's `helper.py`
would silently be the first one's. Requests and answers are JSON lines with an `id`:

    {"id", "op": "load", "job": {"name", "kind", "folder", "file", "entry", "definition",
                                 "connections", "models"}}
    {"id", "op": "run", "job": name, "row", "inputs"}      one thread a row
    {"id", "op": "aggregate", "job": name, "rows": path}   metrics of a finished run

The process ends when stdin closes, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from llmops import calls
from llmops.metrics import measure
from llmops.runners import CallableRunner, Runner, means
from llmops.runs import Row, read_rows


class Worker:
    """Runs what it is asked and answers on `channel`."""

    def __init__(self, channel: int) -> None:
        self._channel = os.fdopen(channel, "w", encoding="utf-8")
        self._lock = threading.Lock()
        self._runners: dict[str, Runner] = {}

    def serve(self) -> None:
        """Answer requests until stdin closes."""
        for line in sys.stdin:
            request = json.loads(line)
            if request["op"] == "run":
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()
            else:
                self._answer(request)

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            answer = getattr(self, f"_{request['op']}")(request)
        except BaseException as error:  # a flow may raise anything, SystemExit too
            traceback.print_exc()
            answer = {"error": _describe(error)}
        text = json.dumps({"id": request["id"], **answer}, ensure_ascii=False, default=str)
        with self._lock:
            self._channel.write(text + "\n")
            self._channel.flush()

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        job = request["job"]
        if job["kind"] == "python":
            if _mentions_openai(Path(job["folder"])):
                import openai  # noqa: F401
            self._runners[job["name"]] = CallableRunner(job)
        else:
            from llmops import promptflow_runner

            self._runners[job["name"]] = promptflow_runner.load(job)
        calls.watch()
        return {}

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        row = calls.Calls()
        calls.ROW.set(row)
        start = time.perf_counter()
        answer: dict[str, Any] = {"outputs": None}
        try:
            runner = self._runners[request["job"]]
            answer["outputs"], answer["aggregation"] = runner.run(request["inputs"], request["row"])
        except BaseException as error:  # a flow may raise anything, SystemExit too
            traceback.print_exc()
            answer["error"] = row.error or _describe(error)
        return {**answer, "latency_s": time.perf_counter() - start, "usage": row.usage}

    def _aggregate(self, request: dict[str, Any]) -> dict[str, Any]:
        rows = [row for row in read_rows(Path(request["rows"])) if not row.failed]
        aggregate = self._runners[request["job"]].aggregator(rows) or means(rows)
        measured = measure(aggregate, len(rows))
        return {
            "metrics": {
                name: {
                    "value": metric.value,
                    "ci95": metric.ci95,
                    "scored": _scored(name, rows),
                    "note": metric.note,
                }
                for name, metric in measured.items()
            }
        }


def _scored(metric: str, rows: list[Row]) -> int:
    """Rows that carry the metric's value; every completed row where it is no output of its own."""
    outputs = [row.outputs or {} for row in rows]
    if any(metric in row for row in outputs):
        return sum(row.get(metric) is not None for row in outputs)
    return len(outputs)


def _describe(error: BaseException) -> dict[str, Any]:
    """The innermost cause in words; it is the flow's own fault, so trying again does not help."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return {"type": type(error).__name__, "message": str(error) or type(error).__name__}


def _mentions_openai(folder: Path) -> bool:
    """Whether the client must be loaded before the flow's code, so that its calls are counted."""
    return any("openai" in path.read_text("utf-8", "replace") for path in folder.rglob("*.py"))


def main() -> None:
    """Keep stdout for the answers and send what the flow prints to the log on stderr."""
    channel = os.dup(1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path.cwd()))
    Worker(channel).serve()
    os._exit(0)  # rows that hang in a thread must not keep the process


if __name__ == "__main__":
    main()
