"""Ctrl-C and SIGTERM end asynchronous work by cancelling it, so that it can tidy up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from llmops.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run; a signal cancels `work`, and when that has tidied up, Stopped is raised.

    A handler that raises would do so in the middle of asyncio's own code, which may then hang.
    """
    with _handlers_restored():
        return asyncio.run(_until_signal(work))


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    stopped: list[int] = []

    def stop(number: int) -> None:
        stopped.append(number)
        task.cancel()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        raise Stopped(stopped[0] if stopped else signal.SIGINT) from None


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """asyncio leaves the default handlers behind, which would end a task amid its report."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
