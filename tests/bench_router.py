"""What the router of a local endpoint adds to an answer, beside its deployment asked directly.

The flow sleeps 0.2 s; router, deployment and load share the cores. Both ways take turns.

    python tests/bench_router.py [clients] [seconds]
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
from usecase import UseCase

DELAY_S = 0.2
TURNS = 3
FLOW = f"import time\n\ndef run(text):\n    time.sleep({DELAY_S})\n    return {{'answer': text}}\n"


def load(url: str, socket: str | None, clients: int, seconds: float) -> list[float]:
    """The seconds of every answer to so many clients, each of which asks again at once."""

    async def ask() -> list[float]:
        took: list[float] = []
        end = time.perf_counter() + seconds
        way = aiohttp.UnixConnector(socket, limit=0) if socket else aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=way) as session:

            async def client(number: int) -> None:
                await asyncio.sleep(DELAY_S * number / clients)
                while (began := time.perf_counter()) < end:
                    async with session.post(url, json={"text": "hello"}) as answer:
                        await answer.read()
                        assert answer.status == 200, answer.status
                    took.append(time.perf_counter() - began)

            await asyncio.gather(*(client(number) for number in range(clients)))
        return took

    return asyncio.run(ask())


def main(clients: int = 64, seconds: float = 5.0) -> None:
    """Print the medians, what the router adds, and its processor time a request."""
    with tempfile.TemporaryDirectory() as folder:
        use = UseCase(Path(folder))
        use.write("flows/standard/flow.py", FLOW)
        use.write("sample-request.json", '{"text": "hello"}')
        entry = {"ENV_NAME": "dev", "ENDPOINT_NAME": "bench", "CURRENT_DEPLOYMENT_NAME": "blue"}
        document = {"azure_managed_endpoint": [entry]}
        use.write("configs/deployment_config.json", json.dumps(document))
        try:
            outcome = use.run("deploy", KIND="local", PORT="0")
            assert outcome.code == 0, outcome.text
            os.chdir(use.folder)  # a socket's path must be short
            measure(Path("runs/endpoints/bench"), clients, seconds)
        finally:
            use.run("deploy", KIND="local", DOWN="1")


def measure(place: Path, clients: int, seconds: float) -> None:
    """See `main`."""
    port = json.loads((place / "state.json").read_text())["port"]
    (socket,) = map(str, place.glob("d*.sock"))
    routers = [
        p for p in json.loads((place / "processes.json").read_text()) if p["what"] == "router"
    ]
    router = psutil.Process(routers[0]["pid"])
    ways = {"directly": ("http://deployment/score", socket)}
    ways["by the router"] = (f"http://127.0.0.1:{port}/score", None)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for url, path in ways.values():  # connections and code are warm then
        load(url, path, clients, 1.0)
    before = sum(router.cpu_times()[:2])
    for _ in range(TURNS):
        for way, (url, path) in ways.items():
            found[way] += load(url, path, clients, seconds)
    spent = sum(router.cpu_times()[:2]) - before
    for way, took in found.items():
        p50, p99 = (1e3 * statistics.quantiles(took, n=100)[at] for at in (49, 98))
        rate = len(took) / seconds / TURNS
        print(f"{way:14} {rate:4.0f}/s  p50 {p50:6.1f}  p99 {p99:6.1f} ms")
    added = statistics.median(found["by the router"]) - statistics.median(found["directly"])
    each = spent / len(found["by the router"])
    print(
        f"added at the median: {1e3 * added:.1f} ms; processor time: {1e3 * each:.2f} ms a request"
    )


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
