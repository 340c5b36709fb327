"""A throw-away use case: the files of an experiment in a folder, and its tasks as child processes.

Tests change what they are about and run a task as a user would; the environment of the child holds
no credentials, and its home and temporary folder lie beside the use case.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llmops

Json = dict[str, Any]

LIBRARY = Path(llmops.__file__).resolve().parents[1]
# Compiled code goes here and not into the template, where baking would find it.
COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")

UPPER = """
def run(text):
    return {"answer": text.upper()}
"""

COMPARE = """
def run(answer, truth):
    return {"match": float(answer == truth)}
"""

ASK = """
import os

from openai import AzureOpenAI

client = AzureOpenAI(
    azure_endpoint=os.environ["AOAI_API_BASE"],
    api_key=os.environ["AOAI_API_KEY"],
    api_version="2024-02-01",
    max_retries=0,
)


def run(text):
    answer = client.chat.completions.create(
        model="standin-small", messages=[{"role": "user", "content": text}]
    )
    return {"answer": answer.choices[0].message.content}
"""

ASK_PLAINLY = """
import json
import os
import urllib.request

ADDRESS = os.environ["AOAI_API_BASE"] + "/v1/chat/completions"


def run(text):
    question = {"model": "standin-small", "messages": [{"role": "user", "content": text}]}
    with urllib.request.urlopen(ADDRESS, json.dumps(question).encode()) as answer:
        return {"answer": json.load(answer)["choices"][0]["message"]["content"]}
"""

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox")

AOAI: Json = {
    "name": "aoai",
    "connection_type": "AzureOpenAIConnection",
    "api_base": "${api_base}",
    "api_key": "${api_key}",
    "api_version": "2024-02-01",
}


@dataclass(frozen=True)
class Outcome:
    """How a task ended; `summary` is reports/summary.json, null where there is no such file."""

    code: int
    out: str
    err: str
    summary: Json | None

    @property
    def text(self) -> str:
        """All that a person sees."""
        return self.out + self.err

    def refused(self, *parts: str) -> None:
        """Assert that the task ended with 1 and one message that holds all these parts."""
        assert self.code == 1, self.text
        assert "Traceback" not in self.text, self.text
        for part in parts:
            assert part in self.err, f"{part!r} is not in the message: {self.err}"


class UseCase:
    """The files of one use case; made with a flow, an evaluator, six rows and no model."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "use case"
        self.home = place / "home"
        self.temporary = place / "temporary"
        for folder in (self.folder, self.home, self.temporary):
            folder.mkdir()
        self.blocks: Json = {
            "name": "words",
            "flow": "flows/standard",
            "datasets": [
                {
                    "name": "words",
                    "source": "data/words.jsonl",
                    "mappings": {"text": "${data.text}"},
                }
            ],
            "evaluators": [
                {
                    "name": "evaluation",
                    "flow": "flows/evaluation",
                    "datasets": [
                        {
                            "name": "words",
                            "mappings": {
                                "answer": "${run.outputs.answer}",
                                "truth": "${data.truth}",
                            },
                        }
                    ],
                }
            ],
        }
        self.configure()
        self.rows([{"text": word, "truth": word.upper()} for word in WORDS])
        self.write("flows/standard/flow.py", UPPER)
        self.write("flows/evaluation/flow.py", COMPARE)

    def configure(self, **blocks: Any) -> None:
        """Set these blocks of experiment.yaml; YAML is a superset of JSON."""
        self.blocks |= blocks
        self.write("experiment.yaml", json.dumps(self.blocks, indent=1))

    def write(self, path: str, content: str | bytes) -> Path:
        """Put a file into the use case."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        return place

    def rows(self, rows: Iterable[Json], path: str = "data/words.jsonl") -> None:
        """Write a dataset."""
        self.write(path, "".join(json.dumps(row) + "\n" for row in rows))

    def ask_a_model(self, **limits: Any) -> None:
        """Replace the flow by one with a model call a row, whose answers the evaluator compares."""
        self.write("flows/standard/flow.py", ASK)
        self.configure(connections=[AOAI], limits={"timeout_s": 20, "retries": 0} | limits)

    def clean(self, **variables: str) -> dict[str, str]:
        """The environment of a task with these variables: nothing of the person who tests."""
        plain = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        places = {"HOME": str(self.home), "TMPDIR": str(self.temporary)}
        places["PYTHONPYCACHEPREFIX"] = COMPILED.name
        return {**plain, **places, "PYTHONPATH": str(LIBRARY), **variables}

    def start(self, task: str, /, **variables: str) -> subprocess.Popen[str]:
        """Start a task; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", f"scripts.{task}"],
            cwd=self.folder,
            env=self.clean(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, task: str = "experiment", /, **variables: str) -> Outcome:
        """Run a task to its end."""
        return self.end(self.start(task, **variables))

    def end(self, child: subprocess.Popen[str], number: int | None = None) -> Outcome:
        """Wait for a task's end, after a signal if one is given."""
        if number is not None:
            child.send_signal(number)
        try:
            out, err = child.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            raise
        return Outcome(child.returncode, out, err, self.summary)

    @property
    def summary(self) -> Json | None:
        """reports/summary.json."""
        path = self.folder / "reports" / "summary.json"
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))
        return None

    def finished(self, name: str = "*") -> list[Json]:
        """The rows on disk of the runs whose folders match a pattern."""
        files = sorted(self.folder.glob(f"runs/{name}/rows.jsonl"))
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def files(self, *suffixes: str) -> list[Path]:
        """Every file of the use case, its home and its temporary folder."""
        roots = (self.folder, self.home, self.temporary)
        found = [path for root in roots for path in root.rglob("*") if path.is_file()]
        return [path for path in found if not suffixes or path.suffix in suffixes]

    def leftovers(self) -> list[Path]:
        """Files that a task writes beside a file before it takes its place, or forgot."""
        written = [p for p in self.files() if p.name.startswith(".") and p.name != ".lock"]
        return [*written, *self.temporary.rglob("*")]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Look again and again until a condition holds; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def example(place: Path, name: str = "named_entity_recognition") -> UseCase:
    """A use case with the files of an example instead."""
    use = UseCase(place)
    shutil.rmtree(use.folder)
    shutil.copytree(LIBRARY / "examples" / name, use.folder)
    return use
