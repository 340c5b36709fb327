"""Model answers kept as files, and the server on loopback that replays or records them.

One recording is one JSON line in `recordings/*.jsonl`:

    {"path": "/chat/completions", "repeat": 0, "request": {"model": …, "messages": …},
     "response": {…}, "source": "written by hand for this example"}

`response` is the full body as the endpoint gave it, without headers, and whole even if it was
streamed. A request finds its recording by `key`. What record mode keeps goes to `recorded.jsonl`
and wins over the other files.

The tasks hold a `Server`. It runs this module as a child process; the web stack is imported there
alone.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote, urlsplit

from llmops.errors import OK, USER_ERROR, UserError
from llmops.files import write_atomically

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp, Receive, Scope, Send

Json = dict[str, Any]
Mode = Literal["replay", "record"]

RECORDED = "recorded.jsonl"
# How an answer is delivered, not what it says: one recording serves each way.
DELIVERY = frozenset({"stream", "stream_options", "encoding_format"})
FIELDS = frozenset({"path", "repeat", "request", "response", "source"})
CHAT = "/chat/completions"
# Characters: of an error's message, and of a text quoted in it.
MESSAGE_LIMIT = 600
EXCERPT = 50
# The search for the nearest recording looks at so many, which keeps a miss at a few milliseconds.
SEARCHED = 2_000


@dataclass(frozen=True, slots=True)
class Target:
    """A real endpoint: what the connection would call if there were no recordings.

    `base` is the URL to which the SDK adds its path: for `azure` the resource, for `openai` all up
    to `/v1`. `headers` (they hold the key) and `query` are added to each request.
    """

    base: str
    kind: Literal["azure", "openai"]
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    query: dict[str, str] = field(default_factory=dict)


# ---- Requests and their keys


def key(path: str, repeat: int, request: Json) -> str:
    """The name of a request: equal for requests that must have the same answer.

    The order of keys, parameters that are null, the delivery (streaming, encoding) and whether a
    whole number is written 0 or 0.0 make no difference.
    """
    text = json.dumps([path, repeat, _relevant(request)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _relevant(request: Json) -> Json:
    return {
        name: _whole_numbers_as_int(value)
        for name, value in request.items()
        if value is not None and name not in DELIVERY
    }


def _whole_numbers_as_int(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers_as_int(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole_numbers_as_int(item) for name, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the server.

    `tail` is the path after connection and repeat as the SDK wrote it, `path` the same without what
    differs between Azure and OpenAI. `request` is the body with Azure's deployment as the model;
    `body` and `query` are what came in.
    """

    connection: str
    repeat: int
    tail: str
    path: str
    request: Json
    body: bytes
    query: dict[str, str]

    @property
    def key(self) -> str:
        """The key under which the answer is recorded."""
        return key(self.path, self.repeat, self.request)

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted in pieces."""
        return bool(self.request.get("stream"))


class RequestError(Exception):
    """A request that gets an error in the form that the SDKs understand."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


_PATH = re.compile(
    r"/(?P<connection>[^/]+)/(?P<repeat>\d{1,9})"
    r"(?P<tail>(?:/openai)?(?:/deployments/(?P<deployment>[^/]+))?(?:/v1)?(?P<path>/.+))"
)


def parse_call(method: str, path: str, query: dict[str, str], body: bytes) -> Call:
    """Understand a request in the layout of Azure OpenAI or of OpenAI.

    Raises:
        RequestError: it is in neither, or asks to stream something other than a chat.
    """
    match = _PATH.fullmatch(path)
    if match is None or method != "POST":
        raise RequestError(
            404, "not_found", f"{method} {path[:200]}: there are no recordings of this."
        )
    try:
        request = json.loads(body)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise RequestError(400, "bad_request", "The body of the request is not a JSON object.")
    if match["deployment"]:
        request["model"] = match["deployment"]
    if request.get("stream") and match["path"] != CHAT:
        raise RequestError(400, "bad_request", f"stream: recordings know it for {CHAT} only.")
    return Call(
        match["connection"],
        int(match["repeat"]),
        match["tail"],
        match["path"],
        request,
        body,
        query,
    )


# ---- The recordings on disk


@dataclass(slots=True, eq=False)
class Entry:
    """Where a recording stands. The text stays on disk, so that memory holds many of them."""

    file: Path
    line: int
    offset: int
    size: int
    path: str
    source: str
    words: frozenset[str] | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Store:
    """All recordings of a folder by key; a missing folder holds none.

    Raises:
        UserError: a line is not a recording, or two lines answer one request differently.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorded = folder / RECORDED
        self.entries: dict[str, Entry] = {}
        self._open: dict[Path, IO[bytes]] = {}
        for file in recording_files(folder):
            for entry, recording in _read_file(file):
                self._add(entry, recording)

    def _add(self, entry: Entry, recording: Json) -> None:
        name = key(entry.path, recording.get("repeat", 0), recording["request"])
        earlier = self.entries.get(name)
        if earlier and entry.file != self.recorded:
            if self.read(earlier)["response"] != recording["response"]:
                raise UserError(
                    f"{entry}: request: {earlier} answers it otherwise. Delete one of the two."
                )
            return
        self.entries[name] = entry

    def read(self, entry: Entry) -> Json:
        """One recording from its file."""
        if entry.file not in self._open:
            self._open[entry.file] = entry.file.open("rb")
        file = self._open[entry.file]
        file.seek(entry.offset)
        return json.loads(file.read(entry.size).decode("utf-8-sig"))  # type: ignore[no-any-return]

    def nearest(self, call: Call) -> Entry | None:
        """The recording of the same path that shares most words, then most parameters."""
        wanted = _words(call.request)
        same_path = (entry for entry in self.entries.values() if entry.path == call.path)
        overlaps = (
            (_overlap(wanted, self._words_of(entry)), -number, entry)
            for number, entry in enumerate(islice(same_path, SEARCHED))
        )
        _, _, nearest = min(
            heapq.nlargest(8, overlaps),
            key=lambda found: (-found[0], len(_differences(call, self.read(found[2])))),
            default=(0, 0, None),
        )
        return nearest

    def _words_of(self, entry: Entry) -> frozenset[str]:
        if entry.words is None:
            entry.words = _words(self.read(entry)["request"])
        return entry.words


def recording_files(folder: Path) -> list[Path]:
    """The files that hold recordings, in the order in which a later one wins."""
    return sorted(folder.glob("*.jsonl"), key=lambda file: (file.name == RECORDED, file.name))


def _read_file(file: Path) -> Iterator[tuple[Entry, Json]]:
    offset = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    recording = _parse_line(line)
                    source = sys.intern(recording.get("source") or "of unknown origin")
                    path = sys.intern(recording["path"])
                    yield Entry(file, number, offset, len(line), path, source), recording
                offset += len(line)
    except ValueError as error:
        raise UserError(f"{file}:{number}: {error}. Correct the line or delete it.") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}). Check its rights.") from error


def _parse_line(line: bytes) -> Json:
    try:
        recording = json.loads(line.decode("utf-8-sig").rstrip())
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1})") from error
    if not isinstance(recording, dict):
        raise ValueError("not a JSON object")
    if unknown := sorted(recording.keys() - FIELDS):
        raise ValueError(f"{unknown[0]}: unknown key (expected one of {', '.join(sorted(FIELDS))})")
    for name, kind in (("path", str), ("request", dict), ("response", dict)):
        if not isinstance(recording.get(name), kind):
            wanted = "a text such as /chat/completions" if kind is str else "a JSON object"
            raise ValueError(f"{name}: missing or not {wanted}")
    if type(recording.get("repeat", 0)) is not int or recording.get("repeat", 0) < 0:
        raise ValueError(f"repeat: {recording['repeat']!r} is not a whole number from 0")
    if not isinstance(recording.get("source", ""), str):
        raise ValueError("source: not a text")
    return recording


def digest(folder: Path) -> str:
    """A hash of all recordings; the order of files and of lines makes no difference.

    Raises:
        UserError: a file cannot be read.
    """
    hashes: list[bytes] = []
    for file in recording_files(folder):
        try:
            with file.open("rb") as lines:
                hashes += (hashlib.sha256(line.strip()).digest() for line in lines if line.strip())
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}).") from error
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def describe(folder: Path) -> str:
    """One sentence for the report: how many answers there are and where they came from.

    Raises:
        UserError: a line is not a recording.
    """
    counts = Counter(entry.source for entry in Store(folder).entries.values())
    if not counts:
        return f"Replayed answers: none, {folder} holds no recordings."
    parts = (f"{count} {source}" for source, count in counts.most_common())
    return f"Replayed answers: {', '.join(parts)}."


# ---- What a miss says


def _words(request: Json) -> frozenset[str]:
    text = json.dumps(list(_relevant(request).values()), ensure_ascii=False)
    return frozenset(map(sys.intern, re.findall(r"\w+", text)))


def _overlap(some: frozenset[str], others: frozenset[str]) -> float:
    shared = len(some & others)
    return shared / (len(some) + len(others) - shared or 1)


def _places(request: Json) -> Json:
    """A request as a flat dict: one entry a parameter, one a message."""
    places = _relevant(request)
    messages = places.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        del places["messages"]
        for number, message in enumerate(messages, 1):
            rest = {name: value for name, value in message.items() if name != "role"}
            content = rest.get("content")
            text = content if rest.keys() == {"content"} and isinstance(content, str) else rest
            places[f"message {number} ({message.get('role')})"] = text
    return places


def _differences(call: Call, recording: Json) -> list[str]:
    """What the request has otherwise than a recording, one short phrase each."""
    wanted = {"repeat": call.repeat, **_places(call.request)}
    recorded = {"repeat": recording.get("repeat", 0), **_places(recording["request"])}
    return [
        f"{place}: {_contrast(wanted.get(place), recorded.get(place))}"
        for place in wanted | recorded
        if wanted.get(place) != recorded.get(place)
    ]


def _contrast(wanted: Any, recorded: Any) -> str:
    if not (isinstance(wanted, str | list | dict) and isinstance(recorded, str | list | dict)):
        return f"wanted {_excerpt(wanted)}, recorded {_excerpt(recorded)}"
    wanted, recorded = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in (wanted, recorded)
    )
    pairs = enumerate(zip(wanted, recorded, strict=False))
    same = next((n for n, (a, b) in pairs if a != b), min(len(wanted), len(recorded)))
    start = max(0, same - 15) if max(len(wanted), len(recorded)) > EXCERPT else 0
    where = f"from character {start + 1} " if start else ""
    return f"{where}wanted {_excerpt(wanted[start:])}, recorded {_excerpt(recorded[start:])}"


def _excerpt(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        cut = value if len(value) <= EXCERPT else value[:EXCERPT] + "…"
        return json.dumps(cut, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)[:EXCERPT]


def miss(store: Store, call: Call) -> RequestError:
    """The refusal of a request that has no recording: what differs, and the way to a model."""
    nearest = store.nearest(call)
    if nearest is None:
        what = f"{store.folder} holds none for {call.path[:80]}"
    else:
        found = _differences(call, store.read(nearest))
        more = f"; {len(found) - 2} more differences" if len(found) > 2 else ""
        what = f"nearest is {nearest}, where it differs: {'; '.join(found[:2])[:300]}{more}"
    way = "For a new or edited prompt set the key of a model in .env, or use a local one (Ollama)."
    return RequestError(
        404, "recording_missing", f"No recording of this request: {what[:450]}. {way}"
    )


# ---- Streaming: one body and its pieces


def split_stream(body: Json, include_usage: bool) -> bytes:
    """A chat completion as the server-sent events that stream it."""
    head = {name: value for name, value in body.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    events = [{**head, "choices": [piece]} for piece in _pieces(body.get("choices", []))]
    if include_usage and body.get("usage"):
        events.append({**head, "choices": [], "usage": body["usage"]})
    return b"".join(b"data: " + dump(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def _pieces(choices: list[Json]) -> Iterator[Json]:
    for choice in choices:
        index = choice.get("index", 0)
        for delta in _deltas(choice.get("message") or {}):
            yield {"index": index, "delta": delta, "finish_reason": None}
        rest = {name: value for name, value in choice.items() if name != "message"}
        yield {**rest, "index": index, "delta": {}}


def _deltas(message: Json) -> Iterator[Json]:
    content, calls = message.get("content"), message.get("tool_calls")
    rest = {name: value for name, value in message.items() if name not in ("content", "tool_calls")}
    yield {"role": "assistant", **rest, "content": content and ""}
    for piece in re.findall(r"(?s).{1,24}", content or ""):
        yield {"content": piece}
    if calls:
        yield {"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]}


def join_stream(events: bytes) -> Json | None:
    """The chat completion that server-sent events streamed; None if they stop before the end."""
    data = [line[5:].strip() for line in events.splitlines() if line.startswith(b"data:")]
    if not data or data.pop() != b"[DONE]":
        return None
    body: Json = {}
    choices: dict[int, Json] = {}
    for chunk in map(json.loads, data):
        body.update({name: value for name, value in chunk.items() if value})
        for piece in chunk.get("choices") or []:
            index = piece.get("index", 0)
            choice = choices.setdefault(index, {"index": index, "message": {}})
            _merge(choice["message"], piece.get("delta") or {})
            _merge_rest(choice, piece)
    for choice in choices.values():
        for call in choice["message"].get("tool_calls") or []:
            call.pop("index", None)
    return {**body, "object": "chat.completion", "choices": [choices[n] for n in sorted(choices)]}


def _merge(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault(name, [])
            for piece in value or []:
                index = piece.get("index", len(calls))
                calls.extend({} for _ in range(index + 1 - len(calls)))
                _merge(calls[index], piece)
        elif isinstance(value, dict):
            _merge(message.setdefault(name, {}), value)
        elif isinstance(value, str) and name in ("content", "refusal", "arguments"):
            message[name] = (message.get(name) or "") + value
        elif value or name not in message:
            message[name] = value


def _merge_rest(choice: Json, piece: Json) -> None:
    for name, value in piece.items():
        if name == "logprobs" and value:
            kept = choice.get(name) or {}
            choice[name] = {part: (kept.get(part) or []) + (value[part] or []) for part in value}
        elif name != "delta" and (value or name not in choice):
            choice[name] = value


def _with_encoding(body: Json, encoding: str) -> Json:
    """Embeddings in the encoding that the client wants, however they were recorded."""

    def encode(vector: Any) -> Any:
        if encoding == "base64" and isinstance(vector, list):
            return base64.b64encode(array("f", vector).tobytes()).decode()
        if encoding != "base64" and isinstance(vector, str):
            return array("f", base64.b64decode(vector)).tolist()
        return vector

    data = [{**item, "embedding": encode(item.get("embedding"))} for item in body.get("data", [])]
    return {**body, "data": data}


def dump(value: Any) -> bytes:
    """JSON on one line in UTF-8; what UTF-8 cannot hold (half a surrogate pair) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


# ---- The two modes


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
            raise miss(self.store, call)
        body = self.store.read(entry)["response"]
        if call.streams:
            options = call.request.get("stream_options") or {}
            events = split_stream(body, bool(options.get("include_usage")))
            return Reply(200, events, STREAM_HEADERS)
        if call.path == "/embeddings":
            body = _with_encoding(body, call.request.get("encoding_format", "float"))
        return Reply(200, dump(body), JSON_HEADERS)


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
                self.journal.keep(call, answer)

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


class Journal:
    """`recorded.jsonl`: grows by a line an answer; `close` drops the lines that were replaced.

    Raises:
        UserError: another process records into the folder, or it cannot be written to.
    """

    def __init__(self, store: Store, source: str) -> None:
        self.path = store.recorded
        self.source = source
        self._lines = {
            name: (entry.offset, entry.size)
            for name, entry in store.entries.items()
            if entry.file == self.path
        }
        self._replaced = False
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(store.folder)
            self._file = self.path.open("ab", buffering=0)
            self._end_last_line()
        except BlockingIOError as error:
            raise UserError(
                f"{store.folder}: another `make record` writes here. Wait until it has ended."
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}). Make the folder writable."
            ) from error

    def _end_last_line(self) -> None:
        """Someone may have edited the file and left its last line without an end."""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read() != b"\n":
                self._file.write(b"\n")

    def keep(self, call: Call, response: Json) -> None:
        """Put one answer on disk; raises RequestError where that fails."""
        recording = {
            "path": call.path,
            "repeat": call.repeat,
            "request": _relevant(call.request),
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


def _lock(folder: Path) -> int:
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


# ---- The child process


def application(answer: Answer) -> ASGIApp:
    """The web application: requests to calls, replies and refusals to responses."""
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse

    async def respond(request: Request) -> Response:
        query = dict(request.query_params)
        path: str = request.scope["path"]
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

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            # Longer than the pools of the SDKs keep a connection, so that they close it, not we.
            timeout_keep_alive=60,
            timeout_graceful_shutdown=2,
        )
    )

    def stop(*_: object) -> None:
        server.should_exit = True

    def stop_with_parent() -> None:
        while os.read(0, 4096):
            pass
        stop()

    # uvicorn raises the signal again when it has stopped; then this handler makes the exit code 0.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # With the protocol named asyncio sets TCP_NODELAY; without it each answer comes 40 ms late.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[listening])


def main() -> int:
    """The child process: one JSON line of configuration on stdin; returns the exit code."""
    config = json.loads(sys.stdin.buffer.readline())
    try:
        store = Store(Path(config["folder"]))
        if config["mode"] == "replay":
            _serve(application(Replay(store)))
            return OK
        targets = {name: Target(**target) for name, target in config["targets"].items()}
        record = Record(store, targets, config["source"])
        _serve(application(record))
        record.journal.close()
    except UserError as error:
        print(error, file=sys.stderr)
        return USER_ERROR
    return OK


# ---- The parent's side


class Server:
    """The server as the tasks see it: a child process that lives as long as the `with` block.

    `source` is what the report says of the answers that record mode keeps, such as
    "recorded 2026-11-20"; `targets` are the endpoints by connection, for record mode only.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        targets: Mapping[str, Target] | None = None,
        source: str = "",
    ) -> None:
        self._config = {
            "mode": mode,
            "folder": str(folder),
            "source": source,
            "targets": {name: asdict(target) for name, target in (targets or {}).items()},
        }
        self._child: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._waiting = threading.Lock()

    def start(self) -> None:
        """Start the child and return at once."""
        import tempfile

        library = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child
        self._child = subprocess.Popen(
            [sys.executable, "-m", "llmops.recordings"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": path},
            # Ctrl-C is for the parent: it may still want answers for the rows that are under way.
            start_new_session=True,
        )
        assert self._child.stdin
        # A child that failed already is reported by `url`.
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(self._config).encode() + b"\n")
            self._child.stdin.flush()

    def url(self, connection: str, repeat: int = 0) -> str:
        """The base URL for a connection; waits until the server listens.

        Raises:
            UserError: it could not start, with the reason.
        """
        with self._waiting:
            if self._port is None:
                self._port = self._read_port()
        return f"http://127.0.0.1:{self._port}/{quote(connection, safe='')}/{repeat}"

    def _read_port(self) -> int:
        if self._child is None:
            self.start()
        assert self._child and self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._errors.seek(0)
            message = self._errors.read().decode(errors="replace").strip()
            raise UserError(message or "The server of the recordings ended without a message.")
        return int(json.loads(line)["port"])

    def stop(self) -> None:
        """End the child and wait for it. Stopping twice, or before the start, does nothing."""
        child, self._child, self._port = self._child, None, None
        if child is None:
            return
        assert child.stdin and child.stdout
        with suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()


if __name__ == "__main__":
    sys.exit(main())
