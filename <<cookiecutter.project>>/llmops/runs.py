"""The store of finished rows: one folder a run, named after what went into it.

A run is one flow over one dataset. Its folder name ends in a hash of everything that decides its
rows (flow, variant, parameters, data, mappings, connection target, recordings), so the same work is
found again and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
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

    `row` counts from 0 in the order of the data; the rows of a second repeat follow those of the
    first. `error` is null for a completed row, otherwise {"type", "message"}. `latency_s` is null
    where nobody measured it. `usage` maps a model to [calls, prompt tokens, completion tokens].
    `aggregation` holds what an evaluation flow's aggregation needs of this row. `requests` are the
    requests of the last try in the order in which they were sent, each {"path", "request"} as in
    recordings; null unless they were to be kept (`make parity`).
    """

    row: int
    inputs: dict[str, Any]
    outputs: dict[str, Any] | None
    error: dict[str, Any] | None = None
    latency_s: float | None = 0.0
    attempts: int = 1
    usage: dict[str, list[int]] = field(default_factory=dict)
    aggregation: dict[str, Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] | None = None

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
        self._aside = self.folder / "aside.jsonl"
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
            self._file.write(json.dumps(_record(row), ensure_ascii=False, default=str) + "\n")
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _open(self) -> IO[str]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._forget_metrics()
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

    def _forget_metrics(self) -> None:
        for derived in (self._metrics, self._draws):
            derived.unlink(missing_ok=True)

    def put_in_order(self) -> None:
        """Sort the rows by number and keep the last record of each."""
        with self.path.open("rb") as file:
            lines = _lines(file)
            _write(self.path, ((file, lines[row]) for row in sorted(lines)))

    def put_aside(self, rows: int) -> None:
        """Sort the rows, and leave only those below this number among them.

        The others, of further repeats, wait in a file of their own until `take_back`.
        """
        self._forget_metrics()
        with self.path.open("rb") as file, self._aside.open("a+b") as more:
            places: dict[int, tuple[IO[bytes], int]] = {}
            for one in (more, file):
                places |= {row: (one, start) for row, start in _lines(one).items()}
            every = sorted(places)
            further = [row for row in every if row >= rows]
            # Each row is on disk at any time, so that a kill loses none.
            _write(self._aside, (places[row] for row in every))
            _write(self.path, (places[row] for row in every if row < rows))
            _write(self._aside, (places[row] for row in further))
        if not further:
            self._aside.unlink()

    def take_back(self, rows: int) -> None:
        """Put those rows that `put_aside` took, and that are below this number, to the others."""
        first = next(read_rows(self._aside), None)
        if first is not None and first.row < rows:
            self.put_aside(rows)


def folder(name: str, digest: str, store: Path = STORE) -> Path:
    """Where a run is kept: a name for people, and enough of its content address to be unique."""
    return store / f"{slug(name)[:80]}-{digest[:ADDRESS]}"


def _record(row: Row) -> dict[str, Any]:
    """A row as it stands in the file: without its requests where they are not kept."""
    return {k: v for k, v in asdict(row).items() if v is not None or k != "requests"}


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a run, one at a time; a line that a kill cut short is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if (row := _parse(line)) is not None:
                yield row


def _lines(file: IO[bytes]) -> dict[int, int]:
    """The position of each row's last line."""
    found: dict[int, int] = {}
    start = file.seek(0)
    for line in file:
        if (row := _parse(line)) is not None:
            found[row.row] = start
        start += len(line)
    return found


def _write(path: Path, places: Iterable[tuple[IO[bytes], int]]) -> None:
    """Write the lines that begin at these places; a file may be that of the path as it was."""
    with write_atomically(path) as ordered:
        for file, start in places:
            file.seek(start)
            ordered.write(file.readline().decode("utf-8").rstrip("\n") + "\n")


def _parse(line: bytes) -> Row | None:
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError):
        return None
