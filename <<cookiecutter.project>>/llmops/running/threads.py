"""Threads that are used again: starting one for each row costs more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue

Work = Callable[[], None]


class Threads:
    """Takes any number of pieces of work at once; there are as many threads as there ever were.

    One that hangs keeps its thread. Each has a context of its own, as in a new thread.
    """

    def __init__(self) -> None:
        self._work: SimpleQueue[Work] = SimpleQueue()
        self._free = threading.Semaphore(0)

    def start(self, work: Work) -> None:
        """Run it in a thread that is free, or in a new one."""
        self._work.put(work)
        if not self._free.acquire(blocking=False):
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            Context().run(self._work.get())
            self._free.release()
