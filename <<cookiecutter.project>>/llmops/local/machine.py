"""What a task can do with an endpoint of this machine: see it, start it, change it, end it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops import asgi
from llmops.deploying.rollout import READY, Deployment, Found
from llmops.errors import UserError
from llmops.files import locked, unwritable
from llmops.lines import appending
from llmops.local import control, logs, processes, state
from llmops.local.control import Json, NotRunning
from llmops.local.state import Kept, State

STARTS_S = 30.0
END_S = 100.0
KILL_S = 5.0
POLL_S = 0.1
NOT_RUNNING = "not running"


@dataclass(frozen=True)
class Seen:
    """What an endpoint shall be, and what its router says; null where there is none."""

    kept: State | None
    running: Json | None = None

    @property
    def found(self) -> Found | None:
        """The same as a plan wants it."""
        if self.kept is None:
            return None
        return Found(
            self.kept.endpoint,
            READY if self.running else NOT_RUNNING,
            self.kept.description,
            url=self.kept.url,
            traffic=dict(self.kept.traffic),
            mirror=dict(self.kept.mirror),
            deployments={name: self._deployment(name) for name in self.kept.deployments},
            since=self.kept.traffic_since,
        )

    def _deployment(self, name: str) -> Deployment:
        """A deployment with the state that it is in; one that never was ready stays failed."""
        assert self.kept
        one = self.kept.deployments[name]
        if self.running is None or one.state != READY:
            return one.deployment
        now = self.running["servers"].get(name, {}).get("status", "ended")
        return one.model_copy(update={"state": READY if now == "ready" else now}).deployment


class Machine:
    """The endpoints of this machine, each in its folder below `runs/endpoints/`."""

    def find(self, name: str) -> Found | None:
        """The endpoint as it is now, null where there is none."""
        return self.seen(name).found

    def seen(self, name: str) -> Seen:
        """What its file says, and its router; raises UserError where the file is broken."""
        place = state.folder(name)
        try:
            answer = control.ask(place, "status")
        except NotRunning:
            return Seen(state.read(place))
        return Seen(State.model_validate(answer["state"]), answer)

    def start(self, kept: State) -> None:
        """Start the router, and with it every deployment that was ready.

        Raises:
            UserError: its port is taken, or a deployment with traffic does not become ready.
        """
        place = state.folder(kept.endpoint)
        state.write(place, kept)
        log = place / "router.log"
        with _log(log) as file:
            begin = file.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", "llmops.local", str(place)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | {"PYTHONPATH": _search_path()},
                start_new_session=True,
            )
        end = time.monotonic() + STARTS_S
        while time.monotonic() < end:
            if child.poll() is not None:
                raise UserError(_said(log, begin) or f"{log}: the router ended with {child.poll()}")
            try:
                control.ask(place, "status")
                return
            except NotRunning:
                time.sleep(POLL_S)
        raise UserError(f"{log}: the router does not answer after {STARTS_S:g} s.")

    def await_ready(self, name: str, wait_s: float) -> None:
        """Wait until every deployment with traffic answers; raises UserError where one does not."""
        end = time.monotonic() + wait_s
        while True:
            found = self.find(name)
            assert found
            late = [n for n in found.traffic if found.deployments[n].state != READY]
            if not late:
                return
            if time.monotonic() > end:
                lines = self.log(name, late[0])
                raise UserError(
                    f"deployment '{late[0]}' does not answer after {wait_s:g} s (WAIT sets the "
                    f"seconds); it is tried again and again.\n{lines}"
                )
            time.sleep(POLL_S)

    def put(self, name: str, kept: Kept, staged: Path, wait_s: float) -> None:
        """Start a deployment without traffic, anew if it is there, from a bundle that it takes.

        Raises:
            UserError: it does not become ready; with its last lines.
        """
        more = {"staged": str(staged), "environment": dict(os.environ), "ready_s": wait_s}
        self._ask(name, "put", wait_s + END_S, deployment=kept.model_dump(), **more)

    def change(self, name: str, **changes: Any) -> None:
        """Set the description or the key of the endpoint."""
        self._ask(name, "set", 60, changes=changes)

    def set_traffic(
        self, found: Found, traffic: Mapping[str, int], mirror: Mapping[str, int]
    ) -> None:
        """Split the traffic, which acts when this returns."""
        self.change(found.name, traffic=dict(traffic), mirror=dict(mirror))

    def log(self, endpoint: str, deployment: str) -> str:
        """The last lines that a deployment wrote, or nothing where there are none."""
        return logs.last_lines(state.folder(endpoint), deployment)

    def end(self, name: str) -> int:
        """End the router and its servers, with what is under way done; how many there were."""
        place = state.folder(name)
        running = processes.alive(place)
        end = time.monotonic()
        with suppress(NotRunning, UserError):  # then a signal ends it
            control.ask(place, "stop")
            end += _longest(place)
        while processes.alive(place) and time.monotonic() < end:
            time.sleep(POLL_S)
        processes.end(processes.alive(place), KILL_S)
        return len(running)

    def _ask(self, name: str, what: str, wait_s: float, **more: Any) -> Json:
        try:
            return control.ask(state.folder(name), what, wait_s, **more)
        except NotRunning as error:
            raise UserError(
                f"endpoint '{name}': its router has ended. See {state.folder(name)}/router.log and "
                "run `make deploy KIND=local` again."
            ) from error


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket on 127.0.0.1 that takes connections; raises UserError where the port is taken."""
    try:
        made = asgi.listening(asgi.LOOPBACK, port)
    except OSError as error:
        raise UserError(
            f"PORT: {port}: another program listens there, or it is not allowed "
            f"({error.strerror}). End that program, or name another port: PORT={port + 1}."
        ) from error
    with made:
        yield made


@contextmanager
def only_one(name: str, wait_s: float) -> Iterator[None]:
    """Only one task changes an endpoint; another is waited for, so many seconds at most.

    Raises:
        UserError: the other one does not end.
    """
    path = state.folder(name).with_name(f".{name}.lock")
    end, told = time.monotonic() + wait_s, False

    def wait() -> bool:
        nonlocal told
        if time.monotonic() > end:
            return False
        if not told:
            print("Another task is changing the endpoint; waiting ...", flush=True)
        told = True
        time.sleep(POLL_S)
        return True

    taken = (
        f"endpoint '{name}': somebody else is changing it, for more than {wait_s:g} s. "
        "Run again later (WAIT sets the seconds)."
    )
    with locked(path, taken, wait):
        yield


@contextmanager
def _log(path: Path) -> Iterator[Any]:
    try:
        handle = appending(path)
    except OSError as error:
        raise unwritable(path, error) from error
    with os.fdopen(handle, "ab") as file:
        file.seek(0, os.SEEK_END)
        yield file


def _said(log: Path, begin: int) -> str:
    """What the router wrote from there on."""
    return log.read_bytes()[begin:].decode(errors="replace").strip()[-2000:]


def _search_path() -> str:
    return os.pathsep.join(filter(None, (str(logs.LIBRARY), os.environ.get("PYTHONPATH"))))


def _longest(place: Path) -> float:
    """How long what is under way may take."""
    kept = state.read(place)
    times = (one.timeout_s for one in kept.deployments.values()) if kept else ()
    return 2 * max(times, default=0) + END_S
