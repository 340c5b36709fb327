"""Requests and answers as an endpoint's data collector writes them, joined to rows of a log.

A record is a line of JSON whose `data` holds one row or a list of them. What went in and what came
out are records of two collections (`model_inputs` and `model_outputs`, or `request` and
`response`) with one `correlationid`. The format is that of Azure ML's article "Collect production
data from models deployed for real-time inferencing".
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from llmops.errors import UserError

DATED = re.compile(r"(.*?)/?\b(\d{4}(?:/\d{2}){0,4})$")
"""A folder of a collection, and the time that it is for: yyyy/MM/dd/HH, or less or more of it."""

# A request's rows in the order of its records, side by side with those of its other collections.
JOINED = """
WITH numbered AS (
    SELECT *, row_number() OVER (PARTITION BY deployment, request, collection ORDER BY number)
              AS row, min(time) OVER (PARTITION BY deployment, request) AS began
    FROM parts
)
SELECT deployment, request, began, row, collection, value FROM numbered
ORDER BY began, deployment, request, row, number
"""


@dataclass(frozen=True)
class Stored:
    """Where a record stands: the deployment's folder, its collection, and the file for messages."""

    deployment: str
    collection: str
    file: str


class Requests:
    """The requests of a log, kept in a file, so that there may be more than memory holds.

    `left_out` counts the records whose data stands in a file of its own, as it is too large for a
    line or is not text; `incomplete` the rows that one of the deployment's collections lacks.
    """

    def __init__(self, folder: Path) -> None:
        self._parts = sqlite3.connect(folder / "requests.db", isolation_level=None)
        # A fetch that is broken off is made again: nothing here must outlive it.
        self._parts.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;")
        self._parts.execute(
            "CREATE TABLE parts (number INTEGER PRIMARY KEY, deployment TEXT, collection TEXT, "
            "request TEXT, time TEXT, value TEXT)"
        )
        self.left_out = self.incomplete = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def add(self, stored: Stored, line: int, text: bytes) -> None:
        """Keep the record of a line.

        Raises:
            UserError: it is not JSON, or no record of a data collector.
        """
        record = _parse(stored.file, line, text)
        if str(record.get("datainblob")).lower() == "true":
            self.left_out += 1
            return
        known = (record.get(key) for key in ("correlationid", "xrequestid", "id"))
        request = next((str(one) for one in known if one), f"{stored.file}:{line}")
        common = (stored.deployment, stored.collection, request, str(record.get("time") or ""))
        rows = _rows(stored.collection, record["data"])
        self._parts.executemany(
            "INSERT INTO parts (deployment, collection, request, time, value) "
            "VALUES (?, ?, ?, ?, ?)",
            ((*common, json.dumps(row)) for row in rows),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """The complete rows by time: the columns of all collections, and which request it was."""
        wanted: dict[str, set[str]] = {}
        for deployment, collection in self._parts.execute(
            "SELECT DISTINCT deployment, collection FROM parts"
        ):
            wanted.setdefault(deployment, set()).add(collection)
        for (deployment, request, began, _), group in itertools.groupby(
            self._parts.execute(JOINED), lambda part: part[:4]
        ):
            parts = list(group)
            if {part[4] for part in parts} != wanted[deployment]:
                self.incomplete += 1
                continue
            row = {"correlationid": request, "time": began}
            row["deployment"] = deployment.rpartition("/")[2]
            for part in parts:
                row |= json.loads(part[5])
            yield row


def place(name: str) -> tuple[Stored, str]:
    """What the name of a stored file says of its records, and the folder of their time or nothing.

    The name is like modelDataCollector/ner/blue/request/2026/11/20/08/a.jsonl.
    """
    folder = str(PurePosixPath(name).parent)
    found = DATED.fullmatch(folder)
    rest, time = (found[1], found[2]) if found else (folder, "")
    deployment, _, collection = rest.rpartition("/")
    return Stored(deployment, collection, name), time


def _parse(file: str, line: int, text: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else error
        raise UserError(f"{file}: line {line}: not JSON ({reason}).") from error
    if not isinstance(record, dict) or "data" not in record:
        raise UserError(
            f"{file}: line {line}: no record of a data collector (expected an object with `data`). "
            "Give LOG the folder that Azure ML collects into."
        )
    return record


def _rows(collection: str, data: Any) -> list[dict[str, Any]]:
    """The rows of a record; what is no object becomes a column with the collection's name."""
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return data
    return [data if isinstance(data, dict) else {collection: data}]
