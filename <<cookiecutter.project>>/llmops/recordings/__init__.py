"""Model answers kept as files, and the server on loopback that replays or records them.

One recording is one JSON line in `recordings/*.jsonl`:

    {"path": "/chat/completions", "repeat": 0, "request": {"model": …, "messages": …},
     "response": {…}, "source": "written by hand for this example"}

`response` is the full body as the endpoint gave it, without headers, and whole even if it was
streamed. A request finds its recording by `key`; one for embeddings of several texts is answered
from those of its single texts, however they were put together when they were recorded. What record
mode keeps goes to `recorded.jsonl` and wins over the other files.

The tasks hold a `Server`. It runs `llmops.recordings` as a child process; the web stack is imported
there alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self
from urllib.parse import quote

from llmops.errors import UserError
from llmops.files import unreadable

Json = dict[str, Any]
Mode = Literal["replay", "record", "fill"]

RECORDED = "recorded.jsonl"
MARK = "x-llmops-noted"
MISSING = "recording_missing"
"""The code of the error that answers a request without a recording."""
"""The header of a request that the row it is of has kept."""
# How an answer is delivered, not what it says: one recording serves each way.
DELIVERY = frozenset({"stream", "stream_options", "encoding_format"})
FIELDS = frozenset({"path", "repeat", "request", "response", "source"})


def key(path: str, repeat: int, request: Json) -> str:
    """The name of a request: equal for requests that must have the same answer.

    The order of keys, parameters that are null, the delivery (streaming, encoding) and whether a
    whole number is written 0 or 0.0 make no difference.
    """
    text = json.dumps([path, repeat, relevant(request)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def relevant(request: Json) -> Json:
    """The parts of a request that decide its answer."""
    return {
        name: _whole_numbers_as_int(value)
        for name, value in request.items()
        if value is not None and name not in DELIVERY
    }


EMBEDDINGS = "/embeddings"


def texts_of(path: str, request: Json) -> list[str]:
    """The texts that a request wants embedded; none where it is another, or gives tokens."""
    given = request.get("input") if path == EMBEDDINGS else None
    texts = given if isinstance(given, list) else [given]
    return [*texts] if all(isinstance(text, str) for text in texts) else []


def single(request: Json, text: str) -> Json:
    """The request for the embedding of one of its texts."""
    return {**request, "input": text}


def _whole_numbers_as_int(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers_as_int(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole_numbers_as_int(item) for name, item in value.items()}
    return value


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
        self.texts: dict[str, tuple[Entry, int]] = {}
        """Where the embedding of a single text stands: in which recording, as the how manieth."""
        self._open: dict[Path, IO[bytes]] = {}
        for file in recording_files(folder):
            for entry, recording in _read_file(file):
                self.add(entry, recording)

    def add(self, entry: Entry, recording: Json) -> None:
        """Take a recording in; raises UserError where another file answers it otherwise."""
        name = key(entry.path, recording.get("repeat", 0), recording["request"])
        earlier = self.entries.get(name)
        if earlier and entry.file != self.recorded:
            if self.read(earlier)["response"] != recording["response"]:
                raise UserError(
                    f"{entry}: request: {earlier} answers it otherwise. Delete one of the two."
                )
            return
        self.entries[name] = entry
        for position, text in enumerate(texts_of(entry.path, recording["request"])):
            one = key(entry.path, recording.get("repeat", 0), single(recording["request"], text))
            if entry.file == self.recorded or one not in self.texts:
                self.texts[one] = (entry, position)

    def read(self, entry: Entry) -> Json:
        """One recording from its file."""
        if entry.file not in self._open:
            self._open[entry.file] = entry.file.open("rb")
        file = self._open[entry.file]
        file.seek(entry.offset)
        return json.loads(file.read(entry.size).decode("utf-8-sig"))  # type: ignore[no-any-return]


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
            raise unreadable(file, error) from error
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


class Server:
    """The server as the tasks see it: a child process that lives as long as the `with` block.

    `source` is what the report says of the answers that record mode keeps, such as
    "recorded 2026-11-20"; `targets` are the endpoints by connection, for record mode only. Mode
    "fill" answers from the recordings and records what they lack. To the file `unmarked` goes the
    path of each request without the header `MARK`.
    """

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        targets: Mapping[str, Target] | None = None,
        source: str = "",
        unmarked: Path | None = None,
    ) -> None:
        self._config = {
            "unmarked": str(unmarked) if unmarked else None,
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
