"""A web application on a socket: how every server of this library listens and answers.

uvicorn is imported by who makes a server, so that a task that only tries a port is quick.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

BACKLOG = 2048
LOOPBACK = "127.0.0.1"


def listening(host: str, port: int) -> socket.socket:
    """A TCP socket that takes connections already; port 0 is any that is free. Raises OSError."""
    # With the protocol named asyncio sets TCP_NODELAY; without it each answer comes 40 ms late.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def config(
    app: ASGIApp, keep_alive_s: int, drain_s: int | None = None, log_level: str | None = "critical"
) -> uvicorn.Config:
    """What uvicorn shall do: no log of its own, no websockets, so many seconds for what is open."""
    import uvicorn

    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=drain_s,
    )


def server(settings: uvicorn.Config) -> uvicorn.Server:
    """A server that leaves signals to its process, which ends with 0 when it has drained."""
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn itself would end the process by the signal."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Leave the signals alone."""
            yield

    return Server(settings)
