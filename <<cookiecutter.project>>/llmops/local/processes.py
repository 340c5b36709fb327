"""Which processes belong to an endpoint: `processes.json`, and how they are ended.

A process id alone says nothing, because the system gives it to another process later: a process is
the one that is meant only if it began at the same time and runs a module of ours.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from llmops.files import write_atomically

FILE = "processes.json"
OURS = ("llmops.local", "llmops.serving")
SAME_START_S = 2.0
"""The system works a start out from its clock, which may be set in between."""


@dataclass(frozen=True)
class Process:
    """A process of an endpoint; `what` is "router" or the deployment, `began` in epoch seconds."""

    what: str
    pid: int
    began: float


def describe(what: str, pid: int) -> Process | None:
    """The record of a process that runs now, null where it has ended."""
    try:
        return Process(what, pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def note(place: Path, running: Iterable[Process]) -> None:
    """Write the processes of an endpoint down."""
    with write_atomically(place / FILE) as file:
        file.write(json.dumps([asdict(one) for one in running]) + "\n")


def alive(place: Path) -> list[Process]:
    """Those that were written down and still run; what cannot be read counts as none."""
    try:
        noted = [Process(**one) for one in json.loads((place / FILE).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []
    return [one for one in noted if _find(one)]


def _find(noted: Process) -> psutil.Process | None:
    try:
        found = psutil.Process(noted.pid)
        same = abs(found.create_time() - noted.began) < SAME_START_S
        ours = any(word in OURS for word in found.cmdline())
        ended = found.status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError, TypeError):
        return None
    return found if same and ours and not ended else None


def end(noted: Iterable[Process], wait_s: float) -> list[Process]:
    """End processes: SIGTERM, then SIGKILL for what is left after `wait_s` seconds.

    Returns:
        Those that did run. Each leads a group, with which it is killed.
    """
    found = {one: process for one in noted if (process := _find(one))}
    for process in found.values():
        with suppress(psutil.Error):
            process.terminate()
    limit = time.monotonic() + wait_s
    while any(_find(one) for one in found) and time.monotonic() < limit:
        time.sleep(0.05)
    for one, process in found.items():
        if _find(one):
            with suppress(psutil.Error):
                process.kill()
            kill_group(one.pid)
    return list(found)


def kill_group(leader: int) -> None:
    """Kill what is left of a process that led a group, and of what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
