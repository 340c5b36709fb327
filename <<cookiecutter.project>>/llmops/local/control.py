"""How tasks talk to a router: one line of JSON each way, over a socket that only its user can open.

    {"do": "status"}                        what is there, and how it is doing
    {"do": "put", "deployment": {…}, "staged": folder of its bundle, "environment", "ready_s"}
                                            start one that takes no traffic, anew if it is there
    {"do": "set", "changes": {…}}           traffic, mirror, description, sticky_key
    {"do": "stop"}                          finish what is under way and end

The answer is {"result": …} or {"error": "…"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmops.errors import UserError

SOCKET = "control.sock"
LONGEST = 2**24
CONNECT_S = 5.0

Json = dict[str, Any]


class NotRunning(Exception):  # noqa: N818  # a state of the world, not a mistake
    """No router listens."""


def ask(place: Path, what: str, wait_s: float = 60, **more: Any) -> Json:
    """Ask the router of an endpoint's folder.

    Raises:
        NotRunning: there is none.
        UserError: what it refuses, or it does not answer within `wait_s` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(CONNECT_S)
        try:
            line.connect(str(place / SOCKET))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(str(place)) from error
        except OSError as error:
            raise UserError(f"{place / SOCKET}: cannot be opened ({error}).") from error
        line.settimeout(wait_s)
        try:
            line.sendall(json.dumps({"do": what, **more}).encode() + b"\n")
            with line.makefile("rb") as answers:
                text = answers.readline(LONGEST)
        except TimeoutError as error:
            raise UserError(
                f"{place}: the router did not answer within {wait_s:g} s. See {place}/router.log."
            ) from error
        except OSError as error:
            raise NotRunning(str(place)) from error
    if not text:
        raise NotRunning(str(place))
    answer = json.loads(text)
    if "error" in answer:
        raise UserError(answer["error"])
    result: Json = answer["result"]
    return result


async def listen(place: Path, do: Callable[[Json], Awaitable[Json]]) -> asyncio.AbstractServer:
    """Answer tasks, each request with what `do` makes of it; its UserError is told to the task."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):  # a task that went away, or no task at all
            answer = await _answer(json.loads(await reader.readline()), do)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    path = place / SOCKET
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(serve, str(path), limit=LONGEST)
    finally:
        os.umask(before)


async def _answer(request: Json, do: Callable[[Json], Awaitable[Json]]) -> Json:
    try:
        return {"result": await do(request)}
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        told = f"{type(error).__name__}: {error}"
        return {"error": f"The router failed ({told}). See router.log, and run again."}
