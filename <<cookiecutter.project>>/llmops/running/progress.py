"""Tells how far a task is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

EVERY_S = 10.0


class Progress:
    """Counts finished rows of `total`; used with `with`."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._failed = 0
        self._start = self._said = time.monotonic()
        self._bar = _bar() if total and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("rows", total=self._total, failed=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def row(self, failed: bool) -> None:
        """One more row is finished."""
        self._done += 1
        self._failed += failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, failed=self._failed)
        elif time.monotonic() - self._said > EVERY_S:
            self._said = time.monotonic()
            rate = self._done / (self._said - self._start)
            print(
                f"{self._done}/{self._total} rows, {self._failed} failed, {rate:.1f} rows/s",
                flush=True,
            )


def _bar() -> Any:
    # Imported only where there is a terminal.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    failed = TextColumn("{task.fields[failed]} failed")
    columns = (BarColumn(), MofNCompleteColumn(), failed, TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True), transient=True)
