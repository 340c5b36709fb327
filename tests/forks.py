"""Tasks as child processes of one that has imported the SDKs: the import takes most of their time.

The script is the unmodified one. What a fork shares with a process of its own is proven by one test
of each file that starts its task by `UseCase.run`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from usecase import Outcome, UseCase

FORKER = """
import importlib, json, os, runpy, signal, sys, traceback
from llmops.running.promptflow_runner import keep_quiet
keep_quiet()
for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        os.waitpid(child, os.WNOHANG)
        continue
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    for number in (1, 2):
        path = job["said"] + str(number)
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    code = 70
    try:
        runpy.run_module("scripts." + job["task"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    with open(job["said"] + "code.new", "w") as file:
        file.write(str(code))
    os.rename(job["said"] + "code.new", job["said"] + "code")
    os._exit(code)
"""


class Forks:
    """The process that forks; `modules` are imported before."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._command = [sys.executable, "-c", FORKER, *modules]
        self._count = 0

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def start(self, task: str, use: UseCase, variables: dict[str, str]) -> Fork:
        """Start a task of a use case with these variables and no others of this process."""
        assert self._process.stdin and self._process.stdout
        self._count += 1
        said = use.home / f"said-{self._count}-"
        places = {"PATH": os.environ["PATH"], "HOME": str(use.home), "TMPDIR": str(use.temporary)}
        job = {"task": task, "folder": str(use.folder), "env": {**places, **variables}}
        self._process.stdin.write(json.dumps({**job, "said": str(said)}) + "\n")
        self._process.stdin.flush()
        return Fork(int(self._process.stdout.readline()), said, use)

    def run(self, task: str, use: UseCase, variables: dict[str, str]) -> Outcome:
        """Run a task to its end."""
        return self.start(task, use, variables).end()


class Fork:
    """A task that was started."""

    def __init__(self, pid: int, said: Path, use: UseCase) -> None:
        self.pid, self._said, self._use = pid, said, use

    @property
    def text(self) -> str:
        """What it has said so far."""
        files = (self._file(number) for number in "12")
        return "".join(file.read_text() for file in files if file.exists())

    def end(self, number: int | None = None) -> Outcome:
        """Wait for its end, after a signal if one is given; a killed one has the code of that."""
        if number is not None:
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            return Outcome(128 + number, "", "", self._use.summary)
        code, until = self._file("code"), time.monotonic() + 90
        while not code.exists():
            assert time.monotonic() < until, f"no end: {self.text}"
            time.sleep(0.02)
        out, err = self._file("1").read_text(), self._file("2").read_text()
        return Outcome(int(code.read_text()), out, err, self._use.summary)

    def _file(self, what: str) -> Path:
        return Path(f"{self._said}{what}")
