"""A bundle served until a signal: the listening socket, the workers, and a drain at the end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmops import answers, asgi, flows
from llmops.answers import Answers
from llmops.config import Experiment
from llmops.connections import Connection
from llmops.errors import OK, UserError
from llmops.running.engine import Worker
from llmops.serving import app, bundle, log, openapi, signature
from llmops.serving.app import Service
from llmops.serving.bodies import MAX_BODY_BYTES
from llmops.serving.bundle import Bundle
from llmops.serving.feedback import FOLDER, Feedback
from llmops.serving.log import Journal
from llmops.serving.pool import Pool
from llmops.settings import whole
from llmops.work import job

if TYPE_CHECKING:
    import uvicorn

SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORKER_LOG = "flow.log"
LARGEST_LOG = 16 * 1024 * 1024


@dataclass(frozen=True)
class Place:
    """Where a server listens: a port of a host (0: any that is free), or a unix socket."""

    host: str = asgi.LOOPBACK
    port: int = 8080
    uds: Path | None = None


@dataclass(frozen=True)
class Options:
    """What the environment says. `folder` is where feedback and the flow's own log go."""

    llm: str | None = None
    concurrency: int | None = None
    content: bool = False
    workers: int = 1
    folder: Path = FOLDER
    max_body: int = MAX_BODY_BYTES


def options(environment: Mapping[str, str] = os.environ) -> Options:
    """LLM, CONCURRENCY, LOG_CONTENT, WORKERS (default: one a core), FEEDBACK_LOG, MAX_BODY_BYTES.

    Raises:
        UserError: a value that is none.
    """
    given = {name: value.strip() for name, value in environment.items() if value.strip()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if given.get("LLM") == "record":
        raise UserError("LLM: value 'record' (expected one of live, replay). Use `make record`.")
    return Options(
        llm=given.get("LLM"),
        concurrency=_number(given, "CONCURRENCY", 0) or None,
        content=given.get("LOG_CONTENT", "0") in ("1", "true"),
        workers=_number(given, "WORKERS", cores or 1),
        folder=Path(given.get("FEEDBACK_LOG", FOLDER)),
        max_body=_number(given, "MAX_BODY_BYTES", MAX_BODY_BYTES),
    )


def run(folder: Path, place: Place, name: str, root: Path = Path()) -> int:
    """Serve the bundle in a folder as deployment `name` until SIGTERM or SIGINT.

    `root` holds `.env`. Prints {"address": …} in one line as soon as it listens, and nothing else.

    Returns:
        0 after a drain. Raises UserError where the bundle, a connection, the flow or the address
        does not do.
    """
    made, chosen = bundle.read(folder), options()
    if chosen.concurrency is not None:
        made = made.model_copy(update={"concurrency": chosen.concurrency})
    with _answers(made, folder, root, chosen.llm) as source, _listening(place) as listening:
        return asyncio.run(_serve(made, folder, listening, name, source, chosen))


async def _serve(
    made: Bundle,
    folder: Path,
    listening: socket.socket,
    name: str,
    source: Answers,
    chosen: Options,
) -> int:
    service = _service(made, folder, name, source, chosen)
    settings = asgi.config(app.build(service), keep_alive_s=60, drain_s=int(made.timeout_s) + 1)
    server = asgi.server(settings)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    _on_signal(service, server)
    print(json.dumps({"address": _address(listening)}), flush=True)
    loading = asyncio.create_task(service.pool.start())
    capping = asyncio.create_task(_capped(chosen.folder / WORKER_LOG))
    try:
        await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            gc.freeze()  # what is there now stays; collecting need not look at it again
        await serving
    finally:
        server.should_exit = server.force_exit = True
        for task in (loading, capping):
            task.cancel()
        await asyncio.gather(serving, loading, capping, return_exceptions=True)
        await service.pool.close()
        if service.traces is not None:
            await asyncio.to_thread(service.traces.close)
    return OK


def _service(made: Bundle, folder: Path, name: str, source: Answers, chosen: Options) -> Service:
    flow = made.describe(folder)
    connections = source.connections()
    task = job(made.name, flow, flows.overlay(flow, {}, {}), connections)
    variables, told = answers.environment(connections), _worker_log(chosen.folder)

    def worker() -> Worker:
        return Worker(flow.folder, variables, told)

    found = signature.read(flow)
    return Service(
        name=name,
        bundle=made,
        signature=found,
        pool=Pool(task, worker, chosen.workers, made.timeout_s, made.retries),
        journal=Journal(name, sys.stderr, chosen.content, _secrets(connections)),
        document=openapi.document(made, found),
        llm=source.mode,
        feedback=Feedback(chosen.folder),
        traces=log.traces(name),
        max_body=chosen.max_body,
    )


def _on_signal(service: Service, server: uvicorn.Server) -> None:
    """The first signal drains, the second gives up what is under way."""

    def stop() -> None:
        server.force_exit = server.should_exit
        service.draining = server.should_exit = True

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop)


@contextmanager
def _answers(made: Bundle, folder: Path, root: Path, llm: str | None) -> Iterator[Answers]:
    experiment = Experiment.model_validate({"name": made.name, "connections": made.connections})
    source = Answers(experiment, llm, root, folder / bundle.RECORDINGS)
    try:
        source.open()
        print(f"llm: {source.mode}. {source.note}", file=sys.stderr, flush=True)
        yield source
    finally:
        source.close()


@contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    """A socket that takes connections already.

    Raises:
        UserError: the address is taken, or not one of this machine.
    """
    try:
        made = _unix(place.uds) if place.uds else asgi.listening(place.host, place.port)
    except OSError as error:
        where = place.uds or f"{place.host}:{place.port}"
        raise UserError(
            f"{where}: cannot listen there: {error.strerror}. Set another PORT."
        ) from None
    try:
        yield made
    finally:
        made.close()
        if place.uds:
            place.uds.unlink(missing_ok=True)


def _unix(path: Path) -> socket.socket:
    """A socket that nobody but this user may use."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(before)
    made.listen(asgi.BACKLOG)
    return made


def _address(listening: socket.socket) -> str:
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _worker_log(folder: Path) -> Path:
    """Where the flow's own output and tracebacks go: for this user alone, or nowhere."""
    path = folder / WORKER_LOG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    except OSError:  # a read-only file system
        return Path(os.devnull)
    return path


async def _capped(log: Path) -> None:
    """Begin the flow's own log anew before it fills the disk; the workers append to it."""
    while True:
        await asyncio.sleep(10)
        with suppress(OSError):
            if log.stat().st_size > LARGEST_LOG:
                os.truncate(log, 0)


def _secrets(connections: Mapping[str, Connection]) -> Iterator[str]:
    for link in connections.values():
        yield from filter(None, (text.get_secret_value() for text in link.secrets.values()))


def _number(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name)
    if text is None:
        return otherwise
    number = whole(text, 11)
    if not number:
        raise UserError(f"{name}: '{text}' (expected a number, 1 or more).")
    return number
