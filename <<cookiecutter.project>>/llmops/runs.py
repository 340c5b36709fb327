"""The store of finished rows: one folder a run, named after what went into it.

A run is one flow over one dataset. Its folder name ends in a hash of everything that decides its
rows (flow, variant, parameters, data, mappings, connection target, recordings), so the same work is
found again and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from llmops.files import UNENCODABLE, end_last_line, slug, unwritable, write_atomically

STORE = Path("runs")
ADDRESS = 12
"""Characters of the hash that a folder name carries."""


@dataclass(slots=True)
class Row:
    """One finished row of a run.

    `row` counts from 0 in the order of the data. `error` is null for a completed row, otherwise
    {"type", "message"}. `latency_s` is null where nobody measured it. `usage` maps a model to
    [calls, prompt tokens, completion tokens]. `aggregation` holds what an evaluation flow's
    aggregation needs of this row.
    """

    row: int
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None
    error: dict[str, Any] | None = None
    latency_s: float | None = 0.0
    attempts: int = 1
    usage: dict[str, list[int]] = field(default_factory=dict)
    aggregation: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the row has an error instead of outputs."""
        return self.error is not None


@dataclass(frozen=True)
class Draws:
    """What an evaluation keeps for a comparison with another one over the same dataset.

    `rows` is how many rows the dataset has. `draws` maps a metric to its value over each draw of
    `llmops.metrics.draws`, `alone` to each row's own value, null where it has none; either is empty
    where it could not be had. `why_alone` says why there are no values of rows.
    """

    rows: int
    draws: dict[str, Sequence[float | None]] = field(default_factory=dict)
    alone: dict[str, Sequence[float | None]] = field(default_factory=dict)
    why_alone: str = ""


class Run:
    """A run's folder: rows are appended as they finish, and put in order at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = self.folder / "rows.jsonl"
        self._metrics = self.folder / "metrics.json"
        self._draws = self.folder / "draws.json"
        self._file: IO[str] | None = None

    def rows(self) -> Iterator[Row]:
        """The rows that are on disk, in no order while the run is under way."""
        return read_rows(self.path)

    def metrics(self) -> dict[str, Any] | None:
        """An evaluation's metrics; null where there are none, or rows have changed since.

        Metrics without their draws, which an older version left, count as none.
        """
        if not self._draws.exists():
            return None
        try:
            metrics: dict[str, Any] = json.loads(self._metrics.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return metrics

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Keep the metrics of the rows as they are now; their draws are kept first, if any are."""
        if not self._draws.exists():
            self.save_draws(Draws(0))
        with write_atomically(self._metrics) as file:
            json.dump(metrics, file, indent=2)

    def draws(self) -> Draws | None:
        """What `save_draws` kept; null where there is nothing, or rows have changed since."""
        try:
            return Draws(**json.loads(self._draws.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save_draws(self, draws: Draws) -> None:
        """Keep the draws of the rows as they are now."""
        with write_atomically(self._draws) as file:
            file.write(json.dumps(vars(draws), separators=(",", ":")))

    def forget(self) -> None:
        """Remove the run, so that every row runs again (FRESH=1)."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, row: Row) -> None:
        """Put one finished row on disk at once."""
        self._file = self._file or self._open()
        try:
            self._file.write(json.dumps(asdict(row), ensure_ascii=False, default=str) + "\n")
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _open(self) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for derived in (self._metrics, self._draws):
                derived.unlink(missing_ok=True)
            end_last_line(self.path)
            return self.path.open("a", encoding="utf-8", errors=UNENCODABLE)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file and put its rows in order."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with suppress(OSError):  # a full disk: `append` has said so, the row runs again
            file.close()
        self.put_in_order()

    def put_in_order(self) -> None:
        """Sort the rows by number and keep the last record of each."""
        offsets: dict[int, int] = {}
        with self.path.open("rb") as file:
            start = 0
            for line in file:
                if (row := _parse(line)) is not None:
                    offsets[row.row] = start
                start += len(line)
            with write_atomically(self.path) as ordered:
                for _, offset in sorted(offsets.items()):
                    file.seek(offset)
                    ordered.write(file.readline().decode("utf-8"))


def folder(name: str, digest: str, store: Path = STORE) -> Path:
    """Where a run is kept: a name for people, and enough of its content address to be unique."""
    return store / f"{slug(name)[:80]}-{digest[:ADDRESS]}"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a run, one at a time; a line that a kill cut short is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if (row := _parse(line)) is not None:
                yield row


def _parse(line: bytes) -> Row | None:
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError):
        return None
