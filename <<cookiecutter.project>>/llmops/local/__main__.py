"""The router's process: `python -m llmops.local runs/endpoints/<endpoint>`.

It brings every deployment back that was ready, with the traffic that it had, and serves until
SIGTERM or `make deploy KIND=local DOWN=1`: then what is under way is finished first.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from llmops.errors import OK, USER_ERROR, UserError
from llmops.files import unwritable
from llmops.local import control, machine, processes, state
from llmops.local.endpoint import Endpoint
from llmops.local.router import Router
from llmops.local.state import State
from llmops.local.wire import MAX_BODY_BYTES

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOCK = ".router.lock"
ORPHANS_S = 5.0


def main() -> int:
    """Serve the endpoint of the folder that is named; 1 with a message where that cannot be."""
    place = Path(*sys.argv[1:2])
    try:
        kept = state.read(place)
        if kept is None:
            raise UserError(f"{place}/state.json: not found. Run `make deploy KIND=local` first.")
        with _only_one(place):
            _tidy(place)
            with machine.listening(kept.port) as port:
                asyncio.run(_serve(place, kept, port))
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return OK


class _Server(uvicorn.Server):
    """uvicorn would end the process by the signal itself; here it ends with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield


async def _serve(place: Path, kept: State, port: socket.socket) -> None:
    def stop() -> None:
        server.config.timeout_graceful_shutdown = int(endpoint.longest_s)
        server.force_exit = server.should_exit  # the second time what is under way is given up
        server.should_exit = True

    endpoint = Endpoint(place, kept, stop)
    server = _Server(_config(endpoint))
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop)
    endpoint.open()
    tasks = await control.listen(place, endpoint.do)
    try:
        await server.serve(sockets=[port])
    finally:
        tasks.close()
        (place / control.SOCKET).unlink(missing_ok=True)
        await endpoint.close()


def _config(endpoint: Endpoint) -> uvicorn.Config:
    return uvicorn.Config(
        Router(endpoint, int(os.environ.get("MAX_BODY_BYTES") or MAX_BODY_BYTES)),
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )


def _tidy(place: Path) -> None:
    """End the servers of a router that was killed, and remove their sockets."""
    processes.end(processes.alive(place), ORPHANS_S)
    for socket_file in place.glob("d*.sock"):
        socket_file.unlink(missing_ok=True)


@contextmanager
def _only_one(place: Path) -> Iterator[None]:
    try:
        lock = (place / LOCK).open("w")
    except OSError as error:
        raise unwritable(place / LOCK, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{place}: its router runs already.") from error
        yield


if __name__ == "__main__":
    sys.exit(main())
