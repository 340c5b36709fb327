"""A flow and what `make eject` made of it, side by side: what each asks its model, and says.

The model is a stand-in in this process that keeps the requests; each flow runs in a worker, as the
tasks run it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import standin
from llmops import answers, config, connections, ejecting, flows
from llmops.errors import UserError
from llmops.recordings import relevant
from llmops.running.engine import Worker, run_row
from llmops.runs import Row, Run
from llmops.settings import Settings
from llmops.work import job

Json = dict[str, Any]

MAKERS = {
    "/chat/completions": standin.chat,
    "/completions": standin.completion,
    "/embeddings": standin.embeddings,
}


class Asked(ThreadingHTTPServer):
    """A model that keeps what it is asked; `says` are answers to prompts that hold a word."""

    def __init__(self, says: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says, self.requests = says, list[str]()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def taken(self) -> Counter[str]:
        """The requests since it was asked last, in their canonical form."""
        found, self.requests = self.requests, []
        return Counter(found)

    def answer(self, path: str, request: Json) -> Json:
        """The body of an answer, which follows from the request alone."""
        place = next(end for end in MAKERS if path.partition("?")[0].endswith(end))
        self.requests.append(json.dumps([path, relevant(request)], sort_keys=True))
        prompt = "\n".join(standin.texts_of(request))
        echo = f"heard: {prompt[-40:]}"
        said = next((text for word, text in self.says.items() if word in prompt), echo)
        return MAKERS[place](request, prompt, said)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        server: Asked = self.server  # type: ignore[assignment]
        body = json.dumps(server.answer(self.path, json.loads(self.rfile.read(size)))).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Ran:
    """A flow's rows: outputs or an error's last word each, the requests of each, the metrics.

    The requests of an aggregation stand behind those of the rows.
    """

    rows: list[Any] = field(default_factory=list)
    requests: list[Counter[str]] = field(default_factory=list)
    metrics: Json = field(default_factory=dict)


class Flows:
    """A repo with one flow in flows/flow, written anew beside it by `eject`."""

    def __init__(
        self, root: Path, files: dict[str, str], rows: Iterable[Json], **blocks: Any
    ) -> None:
        self.root, self.rows = root, list(rows)
        for name, text in files.items():
            place = root / "flows" / "flow" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        (root / "rows.jsonl").write_text(lines)
        (root / "pyproject.toml").write_text(PROJECT)
        dataset = {"name": "rows", "source": "rows.jsonl", "mappings": blocks.pop("mappings", {})}
        document = {"name": "x", "flow": "flows/flow", "datasets": [dataset], **blocks}
        (root / "experiment.yaml").write_text(json.dumps(document))

    def eject(self, **settings: Any) -> str:
        """Write it anew; returns flow.py."""
        ejecting.run(Settings(flow="flows/flow", **settings), self.root)
        return self.written("flow.py")

    def written(self, name: str) -> str:
        """A file of the new flow."""
        return (self.root / "flows" / "flow_python" / name).read_text()

    def equal(self, says: dict[str, str] | None = None, **more: Any) -> Ran:
        """Assert that both ask and say the same in every row; returns what the new one did.

        `more` are inputs of the new flow besides, as its variants are.
        """
        model = Asked(says or {})
        try:
            variants = {k.removesuffix("_variant"): v for k, v in more.items()}
            old = asyncio.run(self._run("flows/flow", model, {}, variants))
            new = asyncio.run(self._run("flows/flow_python", model, more, {}))
        finally:
            model.shutdown()
            model.server_close()
        assert new.rows == old.rows, shown(old.rows, new.rows)
        assert new.requests == old.requests, shown(old.requests, new.requests)
        assert new.metrics == old.metrics, shown(old.metrics, new.metrics)
        return new

    async def _run(self, reference: str, model: Asked, more: Json, variants: dict[str, str]) -> Ran:
        flow = flows.describe(reference, self.root)
        experiment = config.load(folder=self.root)
        known = connections.load(experiment.connections, variables(experiment, model.url))
        environment = answers.environment(known, self.root)
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        worker = Worker(flow.folder, environment, self.root / "log")
        chosen = {
            node: variants.get(node.lower(), names[0]) for node, names in flow.variants.items()
        }
        task = job("x", flow, flows.overlay(flow, chosen, {}), known)
        ran, run = Ran(), Run(self.root / "runs" / flow.folder.name)
        run.forget()
        try:
            for number, row in enumerate(self.rows):
                done = await run_row(worker, task, number, row | more, experiment.limits)
                ran.rows.append(done.outputs if done.error is None else failure(done))
                ran.requests.append(model.taken())
                run.append(done)
            with suppress(UserError):  # no metrics: the flow has no aggregation
                found = await worker.aggregate(task, run.path)
                ran.metrics = {name: metric["value"] for name, metric in found.items()}
                ran.requests.append(model.taken())
        finally:
            await worker.close()
        return ran


def shown(old: Any, new: Any) -> str:
    """What differs, for a person."""
    return f"old: {old}\nnew: {new}"


def failure(row: Row) -> str:
    """That a row failed, without the words that only one of the engines has for it."""
    return f"failed with {(row.error or {})['type']}"


def variables(experiment: config.Experiment, url: str) -> dict[str, str]:
    """What leads each connection to the stand-in."""
    found = {}
    for entry in experiment.connections:
        start = connections.variable(entry.name)
        openai = entry.connection_type == "OpenAIConnection"
        found[f"{start}_API_KEY"] = "a-key"
        found[f"{start}_{'BASE_URL' if openai else 'API_BASE'}"] = f"{url}/v1" if openai else url
    return found


PROJECT = """
[dependency-groups]
flow = []

[tool.ruff]
line-length = 100
target-version = "py311"
extend-exclude = []

[tool.ruff.lint]
select = ["E", "F", "I", "UP", "B", "SIM", "C4", "PTH", "RET", "RUF", "N"]
ignore = ["RUF001"]
"""
