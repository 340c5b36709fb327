"""`make deploy KIND=local STATUS=1` and `DOWN=1`: how an endpoint is, and its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.deploying.rollout import READY
from llmops.errors import OK
from llmops.local import state
from llmops.local.control import Json
from llmops.local.machine import NOT_RUNNING, Machine, only_one
from llmops.local.state import State

HEADERS = (
    *("deployment", "state", "traffic", "flow", "variant", "llm", "process", "restarts"),
    *("requests", "errors"),
)


def status(name: str) -> int:
    """Print the endpoint and its deployments."""
    from tabulate import tabulate

    seen = Machine().seen(name)
    kept, running = seen.kept, seen.running
    if kept is None:
        print(f"endpoint '{name}': does not exist. `make deploy KIND=local` makes it.")
        return OK
    where = f"running at {kept.url}, router {running['pid']}" if running else NOT_RUNNING
    print(f"endpoint '{name}': {where}")
    if kept.sticky_key:
        print(f"requests with the same '{kept.sticky_key}' go to the same deployment")
    rows = [_row(kept, one, (running or {}).get("servers", {})) for one in kept.deployments]
    print(tabulate(rows, headers=HEADERS, disable_numparse=True))
    if not running:
        print("`make deploy KIND=local` starts it with the same traffic.")
    return OK


def _row(kept: State, name: str, servers: Mapping[str, Json]) -> tuple[Any, ...]:
    one, now = kept.deployments[name], servers.get(name, {})
    mirrored = kept.mirror.get(name)
    share = f"{mirrored}% mirrored" if mirrored else f"{kept.traffic.get(name, 0)}%"
    status = "failed" if one.state != READY else now.get("status", NOT_RUNNING)
    figures = (now.get(word, "-") for word in ("pid", "restarts", "requests", "errors"))
    flow = one.model.rpartition(":")[2]
    return (name, status, share, flow, one.variant, one.llm, *figures)


def down(name: str, wait_s: float) -> int:
    """End the router and its servers; the endpoint's files stay."""
    with only_one(name, wait_s):
        count = Machine().end(name)
    if not count:
        print(f"endpoint '{name}' is not running.")
        return OK
    print(
        f"endpoint '{name}': ended, {count} processes. `make deploy KIND=local` starts it with "
        f"the same traffic; to forget it, delete {state.folder(name)}."
    )
    return OK
