"""The endpoint inside its router: what shall be, in a file, and the servers that are."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmops.deploying.rollout import FAILED, READY
from llmops.errors import UserError
from llmops.lines import moment
from llmops.local import logs, processes, state
from llmops.local.control import Json
from llmops.local.servers import Server
from llmops.local.state import Kept, State

CHANGES = ("traffic", "mirror", "description", "sticky_key")
LOOK_S = 10.0
END_S = 10.0
"""More seconds than a request may take, until a server that shall end is killed."""


class Endpoint:
    """Keeps the servers as the state says; what tasks may ask of it is `do`."""

    def __init__(self, place: Path, kept: State, stop: Callable[[], None]) -> None:
        self.state, self.place = kept, place
        self.servers: dict[str, Server] = {}
        self._stop = stop
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def able(self) -> set[str]:
        """The deployments that answer."""
        return {name for name, server in self.servers.items() if server.able}

    @property
    def longest_s(self) -> float:
        """How long a request may take."""
        times = (kept.timeout_s for kept in self.state.deployments.values())
        return max(times, default=0) + END_S

    def open(self) -> None:
        """Start every deployment that was ready once."""
        for kept in self.state.deployments.values():
            if kept.state == READY:
                server = self._server(kept, os.environ)
                self._tasks.append(asyncio.create_task(server.restore()))
        self._tasks.append(asyncio.create_task(self._shorten_logs()))
        self._note_processes()

    async def close(self) -> None:
        """End every server, with what is under way in it done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.stop(_grace(server.kept)) for server in self._all()))
        self._note_processes()

    async def do(self, request: Json) -> Json:
        """What a task asks for, see `llmops.local.control`; raises UserError."""
        match request.get("do"):
            case "status":
                return self._status()
            case "put":
                async with self._changing:
                    await self._put(**{k: v for k, v in request.items() if k != "do"})
            case "set":
                async with self._changing:
                    self._set(request["changes"])
            case "stop":
                self._stop()
            case other:
                raise UserError(f"'{other}' is nothing that this router does. Use its version.")
        return {}

    def _status(self) -> Json:
        servers = {name: _figures(server) for name, server in self.servers.items()}
        return {"pid": os.getpid(), "state": self.state.model_dump(), "servers": servers}

    async def _put(
        self, deployment: Json, staged: str, environment: Mapping[str, str], ready_s: float
    ) -> None:
        kept = Kept.model_validate(deployment)
        if self.state.traffic.get(kept.name):
            raise UserError(f"deployment '{kept.name}': takes traffic, so it is not changed.")
        if (before := self.servers.pop(kept.name, None)) is not None:
            await before.stop(_grace(before.kept))
        place = logs.bundle(self.place, kept.name)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        Path(staged).rename(place)
        logs.log_path(self.place, kept.name).unlink(missing_ok=True)
        # Until it is ready it counts as failed: a router that ends here does not bring it back.
        self._keep(self.state.having(kept.model_copy(update={"state": FAILED})))
        await self._server(kept, environment).start(ready_s)
        self._keep(self.state.having(kept))

    def _set(self, changes: Mapping[str, Any]) -> None:
        known = {key: changes[key] for key in CHANGES if key in changes}
        for name in {**known.get("traffic", {}), **known.get("mirror", {})}:
            if name not in self.servers:
                raise UserError(f"deployment '{name}': not there, so it can take no traffic.")
        if "traffic" in known:
            known["traffic_since"] = moment()
        self._keep(self.state.model_copy(update=known))

    def _keep(self, changed: State) -> None:
        """On disk first: what cannot be kept is not done."""
        state.write(self.place, changed)
        self.state = changed

    def _server(self, kept: Kept, environment: Mapping[str, str]) -> Server:
        server = Server(kept, self.place, environment, self._note_processes)
        self.servers[kept.name] = server
        return server

    def _all(self) -> list[Server]:
        return list(self.servers.values())

    def _note_processes(self) -> None:
        pids = {"router": os.getpid()} | {s.kept.name: s.pid for s in self._all() if s.pid}
        found = (processes.describe(what, pid) for what, pid in pids.items())
        processes.note(self.place, filter(None, found))

    async def _shorten_logs(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for path in logs.every(self.place):
                logs.shorten(path)


def _grace(kept: Kept) -> float:
    return kept.timeout_s + END_S


def _figures(server: Server) -> Json:
    words = ("status", "pid", "restarts", "requests", "errors")
    return {word: getattr(server, word) for word in words}
