"""Requests a second of a served flow, beside those of prompt flow's own server, in one run.

The named-entity example with one model call a request; model, server and load share the cores. The
load is `clients` connections that each send the next request when an answer has come.

    python tests/bench_serving.py                 both servers, at 64 and 256 clients
    python tests/bench_serving.py --only ours --clients 64 --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from standin import StandIn
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
(HOUSE,) = HERE.parent.glob("*cookiecutter.project*")
EXAMPLE = HOUSE / "examples" / "named_entity_recognition"
DELAY_S = 0.2
CLIENTS = (64, 256)
SECONDS = 10.0
WARM_S = 3.0
TICK = os.sysconf("SC_CLK_TCK")


# ---- The load


class Client(asyncio.Protocol):
    """One client that sends a request again as soon as its answer is whole.

    On the same connection, where the server keeps it (Flask's does not).
    """

    def __init__(self, request: bytes, load: Load) -> None:
        self._request, self._load = request, load
        self._buffer = b""
        self._sent = 0.0
        self._waits = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole."""
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        if len(body) < int(lower[at : at + 12].split(b"\r")[0]):
            return
        self._buffer = b""
        self._load.count(time.perf_counter() - self._sent, int(head[9:12]), body)
        self._waits = False
        closing = head.startswith(b"HTTP/1.0") or b"connection: close" in lower
        if self._load.going and not closing:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that ends before its answer has lost one."""
        if self._load.going and not self._waits:
            self._load.connect(self._request)
        else:
            self._load.ended(lost=self._waits)

    def _send(self) -> None:
        self._sent, self._waits = time.perf_counter(), True
        self._transport.write(self._request)


@dataclass
class Load:
    """What the connections saw: seconds of each answer, answers by status, answers lost."""

    took: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    going: bool = True
    counting: bool = False
    wrong: bytes = b""
    cpu: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._left = self.port = 0
        self._done = asyncio.Event()
        self._connecting: set[asyncio.Task[Any]] = set()

    def count(self, seconds: float, status: int, body: bytes) -> None:
        """One answer."""
        if self.counting:
            self.took.append(seconds)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status != 200:
            self.wrong = body

    def connect(self, request: bytes) -> None:
        """Another connection for a client."""
        loop = asyncio.get_running_loop()
        made = loop.create_connection(lambda: Client(request, self), "127.0.0.1", self.port)
        task = loop.create_task(made)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def ended(self, lost: bool) -> None:
        """One connection less."""
        self.lost += lost
        self._left -= 1
        if not self._left:
            self._done.set()

    async def run(self, port: int, body: bytes, clients: int, warm: float, seconds: float) -> None:
        """Send for so long; what comes while it warms up is not measured."""
        head = f"POST /score HTTP/1.1\r\nhost: localhost:{port}\r\naccept: */*\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._left, self.port = clients, port
        for _ in range(clients):
            self.connect(head.encode() + body)
        await asyncio.sleep(warm)
        self.counting = True
        await asyncio.sleep(seconds)
        self.counting = False
        await asyncio.sleep(0)
        self.going = False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), 60)


@dataclass(frozen=True)
class Rate:
    """One measured load; `cpu` is milliseconds a request by process."""

    server: str
    clients: int
    rate: float
    p50: float
    p99: float
    failed: int
    cpu: dict[str, float]

    def line(self) -> list[Any]:
        """For the table."""
        limit = self.clients / DELAY_S
        used = ", ".join(f"{name} {ms:.2f}" for name, ms in self.cpu.items())
        shown = [f"{self.rate:.0f}", f"{limit:.0f}", f"{self.rate / limit:.2f}"]
        return [
            self.server,
            self.clients,
            *shown,
            f"{self.p50:.2f}",
            f"{self.p99:.2f}",
            self.failed,
            used,
        ]


HEADERS = (
    "server",
    "clients",
    "requests/s",
    "limit",
    "of it",
    "p50 s",
    "p99 s",
    "failed",
    "CPU ms",
)


def measure(name: str, port: int, pid: int, model: int, clients: int, seconds: float) -> Rate:
    """Put load on a server that listens."""
    body = json.dumps(json.loads((EXAMPLE / "sample-request.json").read_text())).encode()
    load = asyncio.run(_loaded(port, body, clients, seconds, pid, model))
    took = sorted(load.took)
    total = len(took)
    return Rate(
        name,
        clients,
        total / seconds,
        statistics.median(took),
        took[int(total * 0.99)],
        load.lost + sum(count for status, count in load.statuses.items() if status != 200),
        {key: 1000 * used / max(1, total) for key, used in load.cpu.items()},
    )


async def _loaded(
    port: int, body: bytes, clients: int, seconds: float, pid: int, model: int
) -> Load:
    load = Load()
    running = asyncio.create_task(load.run(port, body, clients, WARM_S, seconds))
    await asyncio.sleep(WARM_S)
    before = _used(pid, model)
    await asyncio.sleep(seconds)
    load.cpu = {key: value - before[key] for key, value in _used(pid, model).items()}
    await running
    return load


def _used(pid: int, model: int) -> dict[str, float]:
    """CPU seconds of the server, its children, the model and the load."""
    children = sum(_cpu(child) for child in descendants(pid))
    own = time.process_time()
    return {"server": _cpu(pid), "workers": children, "model": _cpu(model), "load": own}


def _cpu(pid: int) -> float:
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / TICK


def descendants(pid: int) -> list[int]:
    """All processes that it has started."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


# ---- The servers


@contextmanager
def ours(url: str, **variables: str) -> Iterator[tuple[int, int]]:
    """`make serve` of the example without its .venv: its port and process."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name, "repo")
        folder.mkdir()
        for part in ("flows", "data", "experiment.yaml", "sample-request.json"):
            (folder / part).symlink_to(EXAMPLE / part)
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("AOAI", "LLM", "PF_"))}
        env = {**plain, "PYTHONPATH": os.pathsep.join([str(HOUSE), *_extra()]), "PORT": "0"}
        env |= {"AOAI_API_BASE": url, "AOAI_API_KEY": "a-key", **variables}
        with _process([sys.executable, "-m", "scripts.serve"], folder, env) as child:
            assert child.stdout
            port = int(json.loads(child.stdout.readline())["address"].rpartition(":")[2])
            _wait(f"http://127.0.0.1:{port}/ready")
            yield port, child.pid


def _extra() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


@contextmanager
def prompt_flow(url: str, engine: str = "flask") -> Iterator[tuple[int, int]]:
    """`pf flow serve` of the same flow: its port and process."""
    import bench  # which imports this module

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), free_port()
        env = bench.promptflow_environment(folder)
        bench.store(folder, url)
        pf = str(Path(sys.executable).with_name("pf"))
        made = [pf, "connection", "create", "--file", "connection.yaml"]
        subprocess.run(made, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(EXAMPLE / "flows/standard", folder / "flow")  # it writes beside the flow
        command = [pf, "flow", "serve", "--source", str(folder / "flow")]
        command += ["--port", str(port), "--host", "127.0.0.1", "--engine", engine]
        with _process([*command, "--skip-open-browser"], folder, env) as child:
            _wait(f"http://127.0.0.1:{port}/health")
            yield port, child.pid


def free_port() -> int:
    """A port that nobody has just now."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _process(
    command: list[str], folder: Path, env: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    with (folder / "server.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if "scripts.serve" in command else log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def _wait(url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 90
    while time.monotonic() < end:
        with suppress(urllib.error.URLError, OSError), opener.open(url, timeout=5):
            return
        time.sleep(0.3)
    raise TimeoutError(f"{url}: no answer")


SERVERS = {"ours": ours, "pf flow serve": prompt_flow}


def rates(only: str, clients: tuple[int, ...], seconds: float) -> Iterator[Rate]:
    """Each server at each number of clients, one after the other."""
    for name, serve in SERVERS.items():
        if only in name:
            with StandIn(DELAY_S) as model, serve(model.url) as (port, pid):
                for count in clients:
                    yield measure(name, port, pid, model.pid, count, seconds)


def table(only: str = "", clients: tuple[int, ...] = CLIENTS, seconds: float = SECONDS) -> str:
    """The rates as lines of Markdown."""
    lines = [rate.line() for rate in rates(only, clients, seconds)]
    return tabulate(lines, headers=HEADERS, tablefmt="github")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="servers whose name has this in it")
    parser.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    print(table(options.only, tuple(options.clients), options.seconds))


if __name__ == "__main__":
    main()
