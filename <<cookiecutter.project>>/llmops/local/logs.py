"""Where the parts of an endpoint's folder lie, and what its servers wrote there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[2]
"""What a process of ours needs on its search path."""
MOST_BYTES = 64 * 2**20
LOG_LINES = 15


def bundle(place: Path, deployment: str) -> Path:
    """The folder with the bundle of a deployment."""
    return place / "deployments" / deployment


def log_path(place: Path, deployment: str) -> Path:
    """What its server says."""
    return place / "deployments" / f"{deployment}.log"


def flow_folder(place: Path, deployment: str) -> Path:
    """Where its server keeps what the flow itself says, in `flow.log`."""
    return place / "deployments" / f"{deployment}.flow"


def last_lines(place: Path, deployment: str) -> str:
    """The ends of its logs, or nothing where there are none."""
    paths = log_path(place, deployment), flow_folder(place, deployment) / "flow.log"
    titles = f"Last lines of '{deployment}'", f"Last lines of the flow in '{deployment}'"
    found = (_tail(path, title) for path, title in zip(paths, titles, strict=True))
    return "\n".join(filter(None, found))


def every(place: Path) -> Iterator[Path]:
    """The logs that processes of the endpoint append to."""
    yield place / "router.log"
    yield from place.glob("deployments/*.log")
    yield from place.glob("deployments/*.flow/flow.log")


def shorten(path: Path, most_bytes: int = MOST_BYTES) -> None:
    """Keep a log that other processes append to from growing: what is there goes to `*.1`."""
    with suppress(OSError):
        if path.stat().st_size > most_bytes:
            path.with_name(f"{path.name}.1").write_bytes(path.read_bytes())
            os.truncate(path, 0)


def _tail(path: Path, title: str) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            lines = file.read().decode(errors="replace").strip().splitlines()[-LOG_LINES:]
    except OSError:
        return ""
    return "\n  ".join([f"{title}:", *(line[:500] for line in lines)]) if lines else ""
