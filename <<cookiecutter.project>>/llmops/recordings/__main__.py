"""The child process: a server on loopback that replays, or records what endpoints answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from llmops import asgi
from llmops.errors import OK, USER_ERROR, UserError
from llmops.files import end_last_line, lock, write_atomically
from llmops.recordings import EMBEDDINGS, MARK, Entry, Json, Store, Target, relevant, texts_of
from llmops.recordings.bodies import dump, join_stream, split_stream, with_encoding
from llmops.recordings.calls import Call, RequestError, parse_call
from llmops.recordings.miss import miss
from llmops.recordings.vectors import pick, put_together, take_apart

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp, Receive, Scope, Send

# Characters of an error's message.
MESSAGE_LIMIT = 600


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the client; a body in pieces is sent as it comes."""

    status: int
    body: bytes | AsyncIterator[bytes]
    headers: dict[str, str]


Answer = Callable[[Call], Awaitable[Reply]]
JSON_HEADERS = {"content-type": "application/json"}
STREAM_HEADERS = {"content-type": "text/event-stream"}


class Replay:
    """Answers from the recordings alone."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def __call__(self, call: Call) -> Reply:
        """The recorded answer; raises RequestError where there is none."""
        entry = self.store.entries.get(call.key)
        if entry is None:
            body = self._from_single_texts(call)
        else:
            body = self.store.read(entry)["response"]
        if call.streams:
            options = call.request.get("stream_options") or {}
            events = split_stream(body, bool(options.get("include_usage")))
            return Reply(200, events, STREAM_HEADERS)
        if call.path == EMBEDDINGS:
            body = with_encoding(body, call.request.get("encoding_format", "float"))
        return Reply(200, dump(body), JSON_HEADERS)

    def _from_single_texts(self, call: Call) -> Json:
        """The answer to a request for embeddings, put together text by text."""
        if not (calls := call.singles):
            raise miss(self.store, call)
        read: dict[str, Json] = {}
        items = []
        for one in calls:
            if (found := self.store.texts.get(one.key)) is None:
                raise miss(self.store, one)
            entry, position = found
            body = read.setdefault(str(entry), self.store.read(entry)["response"])
            items.append(pick(body, position))
        return put_together(items)


# Of the endpoint's headers, those that tell a client how to go on.
_PASSED_ON = re.compile(r"content-type|retry-after.*|x-should-retry|x-ratelimit-.*|x-request-id")


class Record:
    """Passes requests on to the real endpoints and keeps each complete answer."""

    def __init__(self, store: Store, targets: Mapping[str, Target], source: str) -> None:
        import httpx

        self.journal = Journal(store, source)
        self.targets = targets
        # The client's own time-out decides; a long answer must not end here first.
        self.http = httpx.AsyncClient(
            timeout=httpx.Timeout(600, connect=15), limits=httpx.Limits(max_connections=None)
        )

    async def __call__(self, call: Call) -> Reply:
        """The endpoint's answer, good or bad, as it is; raises RequestError where none came."""
        import httpx

        target = self.targets.get(call.connection)
        if target is None:
            raise RequestError(404, "not_found", f"{call.connection}: no connection of this name.")
        try:
            upstream = await self._send(call, target)
            headers = {n: v for n, v in upstream.headers.items() if _PASSED_ON.fullmatch(n)}
            if headers.get("content-type", "").startswith("text/event-stream"):
                return Reply(upstream.status_code, self._keep_stream(call, upstream), headers)
            body = await upstream.aread()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            host = urlsplit(target.base).hostname
            message = f"{host}: no answer ({type(error).__name__}). Check address and network."
            raise RequestError(502, "endpoint_unreachable", message) from None
        if upstream.status_code < 400:
            self._keep_json(call, body)
        return Reply(upstream.status_code, body, headers)

    async def _send(self, call: Call, target: Target) -> httpx.Response:
        path = call.tail if target.kind == "azure" else call.path
        request = self.http.build_request(
            "POST",
            target.base.rstrip("/") + quote(path),
            params=call.query | target.query,
            headers=JSON_HEADERS | target.headers,
            content=call.body,
        )
        return await self.http.send(request, stream=True)

    def _keep_json(self, call: Call, body: bytes) -> None:
        with suppress(ValueError):
            answer = json.loads(body)
            # Some endpoints answer 200 and an error.
            if isinstance(answer, dict) and not answer.get("error"):
                self._keep(call, answer)

    def _keep(self, call: Call, answer: Json) -> None:
        """Keep an answer; embeddings of several texts one by one."""
        calls = call.singles
        if len(calls) < 2 or len(answer.get("data") or []) != len(calls):
            self.journal.keep(call, answer)
            return
        for one, part in zip(
            calls, take_apart(answer, texts_of(call.path, call.request)), strict=True
        ):
            self.journal.keep(one, part)

    async def _keep_stream(self, call: Call, upstream: httpx.Response) -> AsyncIterator[bytes]:
        events = bytearray()
        try:
            async for piece in upstream.aiter_bytes():
                events += piece
                yield piece
        finally:
            await upstream.aclose()
        with suppress(ValueError):
            if upstream.status_code < 400 and (body := join_stream(bytes(events))):
                self.journal.keep(call, body)


class Fill:
    """Answers from the recordings, and records what they lack: a request is asked once.

    So a second flow that asks the same gets the very same answer.
    """

    def __init__(self, record: Record, store: Store) -> None:
        self._record, self._replay = record, Replay(store)
        self._asking: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __call__(self, call: Call) -> Reply:
        """The recorded answer, else the endpoint's; raises RequestError where none came."""
        async with self._asking[call.key]:
            with suppress(RequestError):
                return await self._replay(call)
            reply = await self._record(call)
            if not isinstance(reply.body, bytes):
                whole = b"".join([piece async for piece in reply.body])
                reply = Reply(reply.status, whole, reply.headers)
            return reply


class Journal:
    """`recorded.jsonl`: grows by a line an answer; `close` drops the lines that were replaced.

    Raises:
        UserError: another process records into the folder, or it cannot be written to.
    """

    def __init__(self, store: Store, source: str) -> None:
        self.path = store.recorded
        self.source = source
        self._store = store
        self._lines = {
            name: (entry.offset, entry.size)
            for name, entry in store.entries.items()
            if entry.file == self.path
        }
        self._replaced = False
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(store.folder, os.O_RDONLY)
            if not lock(self._lock):
                raise UserError(
                    f"{store.folder}: another `make record` writes here. Wait until it has ended."
                )
            end_last_line(self.path)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}). Make the folder writable."
            ) from error

    def keep(self, call: Call, response: Json) -> None:
        """Put one answer on disk; raises RequestError where that fails."""
        recording = {
            "path": call.path,
            "repeat": call.repeat,
            "request": relevant(call.request),
            "response": response,
            "source": self.source,
        }
        line = dump(recording) + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError("no space left")
        except OSError as error:
            self._file.truncate(start)
            # Not a 5xx: the SDKs would ask the endpoint, and pay, again.
            message = f"{self.path}: the answer cannot be kept ({error.strerror or error})."
            raise RequestError(422, "recording_failed", message) from error
        self._replaced |= call.key in self._lines
        self._lines[call.key] = (start, len(line))
        path, number = sys.intern(call.path), len(self._lines)
        entry = Entry(self.path, number, start, len(line), path, self.source)
        self._store.add(entry, recording)

    def close(self) -> None:
        """Rewrite the file without the lines that later ones replaced; leave no empty file."""
        self._file.close()
        if not self._lines:
            self.path.unlink()
        if self._replaced:
            with self.path.open("rb") as old, write_atomically(self.path) as new:
                for offset, size in sorted(self._lines.values()):
                    old.seek(offset)
                    new.write(old.read(size).decode("utf-8-sig").rstrip("\r\n") + "\n")
        os.close(self._lock)


def application(answer: Answer, unmarked: Path | None = None) -> ASGIApp:
    """The web application: requests to calls, replies and refusals to responses.

    To the file `unmarked` goes the path of each request without the header `MARK`.
    """
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse

    async def respond(request: Request) -> Response:
        query = dict(request.query_params)
        path: str = request.scope["path"]
        if unmarked is not None and MARK not in request.headers:
            with unmarked.open("a", encoding="utf-8") as file:
                file.write(f"{path}\n")
        try:
            reply = await answer(parse_call(request.method, path, query, await request.body()))
        except RequestError as refusal:
            error = {"code": refusal.code, "message": refusal.message[:MESSAGE_LIMIT]}
            return Response(dump({"error": error}), refusal.status, JSON_HEADERS)
        if isinstance(reply.body, bytes):
            return Response(reply.body, reply.status, reply.headers)
        return StreamingResponse(reply.body, reply.status, reply.headers)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            response = await respond(Request(scope, receive))
            await response(scope, receive, send)

    return app


def _serve(app: ASGIApp) -> None:
    """Listen, print the port, and serve until stdin closes or SIGTERM comes."""
    import uvicorn

    # Longer than the pools of the SDKs keep a connection, so that they close it, not we.
    server = uvicorn.Server(asgi.config(app, keep_alive_s=60, drain_s=2, log_level=None))

    def stop(*_: object) -> None:
        server.should_exit = True

    def stop_with_parent() -> None:
        while os.read(0, 4096):
            pass
        stop()

    # uvicorn raises the signal again when it has stopped; then this handler makes the exit code 0.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    listening = asgi.listening(asgi.LOOPBACK, 0)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[listening])


def main() -> int:
    """The child process: one JSON line of configuration on stdin; returns the exit code."""
    config = json.loads(sys.stdin.buffer.readline())
    try:
        store = Store(Path(config["folder"]))
        unmarked = Path(config["unmarked"]) if config.get("unmarked") else None
        if config["mode"] == "replay":
            _serve(application(Replay(store), unmarked))
            return OK
        targets = {name: Target(**target) for name, target in config["targets"].items()}
        record = Record(store, targets, config["source"])
        answer = Fill(record, store) if config["mode"] == "fill" else record
        _serve(application(answer, unmarked))
        record.journal.close()
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return OK


if __name__ == "__main__":
    sys.exit(main())
