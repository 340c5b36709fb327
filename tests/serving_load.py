"""A served flow under load from many clients, with a model that fails now and then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench_serving import Load
from serving import Served, chat, resident
from standin import StandIn
from usecase import UseCase

CLIENTS = 200
FAILING = 0.01
WARM_S = 3.0


@dataclass
class Seen:
    """Answers by status, answers lost, and MB of the server and of its workers, at times."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    server: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    asked: int = 0


def under_load(place: Path, seconds: float) -> Seen:
    """Send for so long; 1 of 100 answers of the model is a 500."""
    use, seen = UseCase(place), Seen()
    chat(use)
    use.configure(limits={"timeout_s": 60, "retries": 0})
    with StandIn(0.2) as model:
        model.fail({"status": 500, "share": FAILING})
        live = {"AOAI_API_BASE": model.url, "AOAI_API_KEY": "a-key", "WORKERS": "2"}
        with Served(use, **live) as served:
            load = asyncio.run(_watched(served, seen, seconds))
            seen.pids = set(served.workers)
            seen.asked = model.requests
            assert served.score({"question": "still there?"}).status_code in (200, 502)
            assert served.stop() == 0
            assert len(served.lines) >= sum(load.statuses.values())
    seen.statuses, seen.lost = Counter(load.statuses), load.lost
    return seen


async def _watched(served: Served, seen: Seen, seconds: float) -> Load:
    load, port = Load(), int(served.url.rpartition(":")[2])
    body = b'{"question": "how are you today?"}'
    running = asyncio.create_task(load.run(port, body, CLIENTS, WARM_S, seconds))
    end = time.monotonic() + WARM_S + seconds
    while time.monotonic() < end:
        await asyncio.sleep(min(1.0, seconds / 8))
        seen.server.append(resident(served.process.pid))
        seen.workers.append(sum(map(resident, served.workers)))
    await running
    return load
