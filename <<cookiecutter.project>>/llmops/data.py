"""Rows of a dataset, and the mappings that turn them into a flow's inputs.

The mapping rules are prompt flow's own: `${data.column}`, `${run.inputs.x}`, `${run.outputs.x}`, or
a literal; an input that nothing maps is read from the column of its name unless it has a default.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmops import images
from llmops.errors import UserError
from llmops.files import unreadable

Record = dict[str, Any]
LINE_NUMBER = "line_number"
"""prompt flow keeps this name for itself; a mapping of it is passed over."""
UNDECIDED = "<undecided"
"""How a mapping begins that a person has yet to decide."""
BLANK = b" \t\r\n\xef\xbb\xbf"
"""White space, and the bytes of a BOM."""
REFERENCE = re.compile(r"^\$\{([^{}]+)\}$")


class Table:
    """A dataset's rows by number without holding them in memory: read once, then by position.

    `columns` counts in how many rows a column occurs; `digest` is a hash over the rows, and over
    the files of images that they name beside the dataset.
    """

    def __init__(self, path: Path) -> None:
        """Read and check every row; a BOM, CRLF and empty lines are accepted.

        Raises:
            UserError: the file is missing or empty, or a line (named by its number) is not UTF-8,
                not JSON or not an object.
        """
        self.path = path
        self.columns: Counter[str] = Counter()
        self._offsets = array("Q")
        content = hashlib.sha256()
        pictures: dict[str, bytes] = {}
        for number, start, line in _lines(path):
            if line.strip(BLANK):
                self._offsets.append(start)
                record = _parse(path, number, line)
                self.columns.update(record.keys())
                content.update(line.strip(BLANK) + b"\n")
                if images.may_have(line):
                    content.update(_pictures(path, record, pictures))
        if not self._offsets:
            raise UserError(f"{path}: has no rows. Add one JSON object a line.")
        self.digest = content.hexdigest()

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb") as file:
            for offset in self._offsets:
                file.seek(offset)
                yield json.loads(file.readline().decode("utf-8-sig"))

    def __getitem__(self, row: int) -> Record:
        with self.path.open("rb") as file:
            file.seek(self._offsets[row])
            record: Record = json.loads(file.readline().decode("utf-8-sig"))
            return record

    def line(self, row: int) -> int:
        """The line number (from 1) at which a row stands, for messages."""
        with self.path.open("rb") as file:
            return file.read(self._offsets[row]).count(b"\n") + 1


def complete_mappings(mappings: Mapping[str, Any], inputs: Mapping[str, bool]) -> dict[str, Any]:
    """The mappings with those that prompt flow adds; `inputs` says of each if it is required."""
    added = {name: f"${{data.{name}}}" for name, required in inputs.items() if required}
    return added | dict(mappings)


def apply_mappings(mappings: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> Record:
    """The inputs of one row; `sources` holds `data`, `run.inputs` and `run.outputs`.

    Raises:
        KeyError: the reference that none of the sources has.
    """
    return {n: resolve(value, sources) for n, value in mappings.items() if n != LINE_NUMBER}


def resolve(value: Any, sources: Mapping[str, Mapping[str, Any]]) -> Any:
    """The value that a mapping refers to, or the literal itself; KeyError where there is none."""
    match = REFERENCE.match(value) if isinstance(value, str) else None
    if match is None:
        return value
    parts = match[1].split(".")
    for at in range(1, len(parts)):
        source, column = ".".join(parts[:at]), ".".join(parts[at:])
        if column in sources.get(source, {}):
            return sources[source][column]
    raise KeyError(value)


def _pictures(path: Path, record: Record, known: dict[str, bytes]) -> bytes:
    """Hashes of the images that a row names beside the dataset; `known` saves reading one twice.

    Images in the flow's own folder are among the flow's files, which count by themselves.
    """
    for name in images.files(record):
        if name not in known:
            file = path.parent / name
            known[name] = hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""
    return b"".join(known[name] for name in images.files(record))


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Each line with its number (from 1) and its position."""
    try:
        with path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                yield number, start, line
                start += len(line)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found. Put the data there or correct `source`.") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _hint(path: Path) -> str:
    """How a table in CSV becomes a dataset."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return ""
    code = "import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]"
    source, target = (shlex.quote(str(place)) for place in (path, path.with_suffix(".jsonl")))
    return f", as `python3 -c '{code}' < {source} > {target}` does"


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: line {number}: not UTF-8. Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, column {error.colno}"
        raise UserError(
            f"{path}: line {number}: not JSON ({reason}). Put one object a line{_hint(path)}."
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: line {number}: not JSON ({error}).") from error
    except RecursionError as error:
        raise UserError(f"{path}: line {number}: not JSON that can be read: too deep.") from error
    if not isinstance(record, dict):
        raise UserError(
            f"{path}: line {number}: a {type(record).__name__}, expected a JSON object."
        )
    return record
