"""The process of one deployment: started, watched, started again with back-off, drained."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import aiohttp

from llmops.errors import UserError
from llmops.lines import appending
from llmops.local.logs import LIBRARY, bundle, flow_folder, last_lines, log_path, shorten
from llmops.local.processes import kill_group
from llmops.local.state import Kept

Status = Literal["starting", "ready", "restarting", "failed", "ended"]

POLL_S = 0.1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
STEADY_S = 60.0
"""After so long without a fault, the pauses begin at the shortest again."""
RESTART_S = 120.0
LOOK_S, HEALTH_S, SILENT = 5.0, 15.0, 3
"""How often a server is asked for its health, how long it may take, and how often it may fail."""
ANSWER_S = 30.0
"""A server ends a request that takes too long itself; after so many seconds more, the router."""

_numbers = itertools.count(1)


class Server:
    """A deployment's server. `changed` is called whenever its process is another one.

    `environment` is that of the task that deployed it, so that it may hold secrets.
    """

    def __init__(
        self,
        kept: Kept,
        place: Path,
        environment: Mapping[str, str],
        changed: Callable[[], None],
    ) -> None:
        self.kept, self.status = kept, "starting"
        self.restarts = self.requests = self.errors = 0
        self.process: asyncio.subprocess.Process | None = None
        self.session: aiohttp.ClientSession | None = None
        self._place, self._changed = place, changed
        self._environment = _environment(kept, place, environment)
        self._watching: asyncio.Task[None] | None = None
        self._ready_at, self._tries = 0.0, 0

    status: Status

    @property
    def pid(self) -> int | None:
        """The id of the process, null where none runs."""
        return self.process.pid if self.process and self.process.returncode is None else None

    @property
    def able(self) -> bool:
        """Whether it answers requests."""
        return self.status == "ready" and self.pid is not None

    async def start(self, wait_s: float) -> None:
        """Start the process, wait until it is ready, and keep it running from then on.

        Raises:
            UserError: it ends, or is not ready after so many seconds; with its last lines.
        """
        try:
            await self._launch(wait_s)
        except BaseException:
            await self._clean()
            self.status = "failed"
            raise
        self._watching = asyncio.create_task(self._watch())

    async def restore(self) -> None:
        """As `start`, for one that was ready before: where it fails, it is tried again."""
        try:
            await self._launch(RESTART_S)
        except (UserError, OSError) as error:
            self._note(error)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self, wait_s: float) -> None:
        """Let it finish what is under way, for so many seconds at most, and end it."""
        self.status = "ended"
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self.process and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.process.wait()
        await self._clean()

    async def _launch(self, wait_s: float) -> None:
        socket = self._place / f"d{next(_numbers)}.sock"
        path = log_path(self._place, self.kept.name)
        shorten(path)
        command = (sys.executable, "-m", "llmops.serving", str(bundle(self._place, self.kept.name)))
        log = appending(path)
        try:
            self.process = await asyncio.create_subprocess_exec(
                *(*command, "--uds", str(socket), "--name", self.kept.name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._changed()
        self.session = _session(socket, self.kept.timeout_s + ANSWER_S)
        await self._until_ready(wait_s)
        self.status, self._ready_at = "ready", time.monotonic()

    async def _until_ready(self, wait_s: float) -> None:
        assert self.process and self.session
        end, name = time.monotonic() + wait_s, self.kept.name
        while time.monotonic() < end:
            if (code := self.process.returncode) is not None:
                raise UserError(
                    f"deployment '{name}': its server ended with {code} before it was ready.\n"
                    f"{last_lines(self._place, name)}"
                )
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.get("http://deployment/ready") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(POLL_S)
        raise UserError(
            f"deployment '{name}': not ready after {wait_s:g} s (WAIT sets the seconds).\n"
            f"{last_lines(self._place, name)}"
        )

    async def _watch(self) -> None:
        """Whenever the process ends, start it again, after longer and longer pauses."""
        while True:
            if self.status == "ready":
                await self._ended()
            if self.status == "ready" and time.monotonic() - self._ready_at > STEADY_S:
                self._tries = 0
            self.status = "restarting"
            await self._clean()
            await self._start_again()

    async def _ended(self) -> None:
        """Wait for the end of the process, or until it has not answered for a while."""
        assert self.process
        silent = 0
        while silent < SILENT:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.process.wait()
                    return
            silent = 0 if await self._healthy() else silent + 1
        self._note(f"did not answer {silent} times, {HEALTH_S:g} s each")

    async def _healthy(self) -> bool:
        assert self.session
        limit = aiohttp.ClientTimeout(total=HEALTH_S)
        try:
            async with self.session.get("http://deployment/health", timeout=limit) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _start_again(self) -> None:
        while self.status != "ready":
            await asyncio.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._tries, 20)))
            self.restarts, self._tries = self.restarts + 1, self._tries + 1
            try:
                await self._launch(RESTART_S)
            except (UserError, OSError) as error:
                self._note(error)
                await self._clean()

    async def _clean(self) -> None:
        """Nothing of the process is left: what it started neither, and no connection to it."""
        process, self.process = self.process, None  # its id may be another's later
        if process:
            kill_group(process.pid)
            await process.wait()
        if self.session:
            await self.session.close()
        self._changed()

    def _note(self, error: object) -> None:
        print(f"{self.kept.name}: {error}", file=sys.stderr, flush=True)


def _environment(kept: Kept, place: Path, given: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(LIBRARY), given.get("PYTHONPATH"))))
    fixed = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "LLM": kept.llm}
    fixed["FEEDBACK_LOG"] = str(flow_folder(place, kept.name))
    return {**given, **kept.variables, **fixed}


def _session(socket: Path, longest_s: float) -> aiohttp.ClientSession:
    """Connections that are kept: fewer seconds than the server keeps them, which is 60."""
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=30),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=longest_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        auto_decompress=False,
    )
