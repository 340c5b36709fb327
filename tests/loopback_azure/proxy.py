"""The only way out of a test: a CONNECT proxy that leads allowed hosts to the emulator."""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

CONTROL = "control.loopback-azure"
ALLOWED = (
    CONTROL,
    "login.microsoftonline.com",
    "management.azure.com",
    "graph.microsoft.com",
    "*.blob.core.windows.net",
    "*.api.azureml.ms",
    "*.inference.ml.azure.com",
    "*.cloudapp.azure.com",  # the front end of an attached Kubernetes cluster
    "*.search.windows.net",
    "*.vault.azure.net",
    "*.azurecr.io",
    "*.azurewebsites.net",
)


def allowed(host: str) -> bool:
    """Whether the emulator speaks for the host."""
    return any(fnmatchcase(host.lower(), pattern) for pattern in ALLOWED)


class Proxy:
    """Tunnels to the TLS server at `port`; what is for other hosts gets 403 and is in `refused`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._clients: dict[int, StreamWriter] = {}
        self.refused: list[str] = []

    async def handle(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one connection of a client."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.decode("latin-1").split(" ", 2)
            if method != "CONNECT":
                await self._refuse(urlsplit(target).netloc, writer)
            elif target.endswith(":443") and allowed(target[:-4]):
                await self._tunnel(reader, writer)
            else:
                await self._refuse(target, writer)
        writer.close()

    def drop(self, port: int) -> None:
        """Cut the client whose tunnel comes in at the server from `port`."""
        self._clients[port].transport.abort()

    def close(self) -> None:
        """Cut every client."""
        for port in list(self._clients):
            self.drop(port)

    async def _refuse(self, host: str, writer: StreamWriter) -> None:
        self.refused.append(host)
        print(f"refused: {host}", file=sys.stderr, flush=True)
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async def _tunnel(self, reader: StreamReader, writer: StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.port)
        port = outer.get_extra_info("sockname")[1]
        self._clients[port] = writer
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pump(reader, outer), _pump(inner, writer))
        finally:
            del self._clients[port]


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
