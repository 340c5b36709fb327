"""A served flow as tests and benchmarks see it: the process, its address, and what it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import httpx
from usecase import UseCase, wait_until

Json = dict[str, Any]

CHAT = {
    "inputs": {
        "chat_history": {"type": "list", "is_chat_history": True, "default": []},
        "question": {"type": "string", "is_chat_input": True, "description": "what to ask"},
        "tone": {"type": "string", "default": "calm"},
    },
    "outputs": {
        "answer": {"type": "string", "reference": "${ask.output}", "is_chat_output": True},
        "length": {"type": "int", "reference": "${measure.output}"},
    },
    "nodes": [
        {
            "name": "ask",
            "type": "llm",
            "source": {"type": "code", "path": "ask.jinja2"},
            "inputs": {
                "deployment_name": "standin-small",
                "question": "${inputs.question}",
                "chat_history": "${inputs.chat_history}",
                "tone": "${inputs.tone}",
            },
            "connection": "aoai",
            "api": "chat",
        },
        {
            "name": "measure",
            "type": "python",
            "source": {"type": "code", "path": "measure.py"},
            "inputs": {"text": "${inputs.question}"},
        },
    ],
}
PROMPT = """# system:
Answer in a {{tone}} tone.
{% for turn in chat_history %}
# user:
{{turn.inputs.question}}
# assistant:
{{turn.outputs.answer}}
{% endfor %}
# user:
{{question}}
"""
MEASURE = """
from promptflow.core import tool


@tool
def measure(text: str) -> int:
    return len(text)
"""


def chat(use: UseCase) -> None:
    """Replace the flow by a chat flow: a DAG with a model call whose answer is an output."""
    (use.folder / "flows/standard/flow.py").unlink(missing_ok=True)
    use.write("flows/standard/flow.dag.yaml", json.dumps(CHAT))
    use.write("flows/standard/ask.jinja2", PROMPT)
    use.write("flows/standard/measure.py", MEASURE)
    entry = {"name": "aoai", "connection_type": "AzureOpenAIConnection"}
    entry |= {"api_base": "${api_base}", "api_key": "${api_key}", "api_version": "2024-02-01"}
    mappings = {"question": "${data.text}"}
    words = {"name": "words", "source": "data/words.jsonl", "mappings": mappings}
    use.configure(connections=[entry], datasets=[words], limits={"timeout_s": 20, "retries": 0})


class Served:
    """`make serve` of a use case, for a `with` block; ended by SIGTERM."""

    def __init__(self, use: UseCase, *command: str, wait: bool = True, **variables: str) -> None:
        self.log = use.folder / "serve.log"
        self._told = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *(command or ("scripts.serve",))],
            cwd=use.folder,
            env=use.clean(PORT="0", **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._told,
            text=True,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.log.read_text())
        self.url = json.loads(line)["address"]
        own = {"transport": httpx.HTTPTransport(uds=self.url[5:])} if self.url[0] == "u" else {}
        base = "http://localhost" if own else self.url
        self.client = httpx.Client(base_url=base, timeout=60, trust_env=False, **own)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until the flow is loaded."""
        wait_until(lambda: self.client.get("/ready").status_code == 200, 60)

    def score(self, inputs: Any, **headers: str) -> httpx.Response:
        """POST /score."""
        return self.client.post("/score", json=inputs, headers=headers)

    def events(self, inputs: Any) -> list[tuple[str, Json]]:
        """The events of a streamed answer: their names and what they hold."""
        accept = {"accept": "text/event-stream"}
        with self.client.stream("POST", "/score", json=inputs, headers=accept) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            blocks = answer.read().decode().split("\n\n")
        return [_event(block) for block in blocks if block]

    @property
    def lines(self) -> list[Json]:
        """What it has logged of its requests."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def workers(self) -> list[int]:
        """The processes that run rows."""
        place = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = [int(pid) for pid in place.read_text().split()]
        return [pid for pid in children if b"llmops.running.worker" in command(pid)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
        self._told.close()


def command(pid: int) -> bytes:
    """The command line of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def resident(pid: int) -> float:
    """MB that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def at_once(tasks: list[threading.Thread]) -> None:
    """Start these threads together and wait for all."""
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()


def _event(block: str) -> tuple[str, Json]:
    lines = dict(line.partition(": ")[::2] for line in block.splitlines())
    return lines.get("event", "message"), json.loads(lines["data"])
