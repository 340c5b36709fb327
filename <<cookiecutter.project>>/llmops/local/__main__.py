"""The router's process: `python -m llmops.local runs/endpoints/<endpoint>`.

It brings every deployment back that was ready, with the traffic that it had, and serves until
SIGTERM or `make deploy KIND=local DOWN=1`: then what is under way is finished first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from llmops import asgi
from llmops.errors import OK, USER_ERROR, UserError
from llmops.files import locked
from llmops.local import control, machine, processes, state
from llmops.local.endpoint import Endpoint
from llmops.local.router import Router
from llmops.local.state import State
from llmops.serving.bodies import MAX_BODY_BYTES

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
        with locked(place / LOCK, f"{place}: its router runs already."):
            _tidy(place)
            with machine.listening(kept.port) as port:
                asyncio.run(_serve(place, kept, port))
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return OK


async def _serve(place: Path, kept: State, port: socket.socket) -> None:
    def stop() -> None:
        server.config.timeout_graceful_shutdown = int(endpoint.longest_s)
        server.force_exit = server.should_exit  # the second time what is under way is given up
        server.should_exit = True

    endpoint = Endpoint(place, kept, stop)
    router = Router(endpoint, int(os.environ.get("MAX_BODY_BYTES") or MAX_BODY_BYTES))
    server = asgi.server(asgi.config(router, keep_alive_s=75))
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


def _tidy(place: Path) -> None:
    """End the servers of a router that was killed, and remove their sockets."""
    processes.end(processes.alive(place), ORPHANS_S)
    for socket_file in place.glob("d*.sock"):
        socket_file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
