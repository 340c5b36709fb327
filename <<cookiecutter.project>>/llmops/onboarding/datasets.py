"""The rows beside a flow: which file holds them, and what they are as one JSON object a line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from llmops.errors import UserError
from llmops.files import unreadable
from llmops.onboarding.images import BLANK
from llmops.onboarding.interface import Input, Interface
from llmops.onboarding.mappings import candidates, meets
from llmops.onboarding.source import GENERIC, yaml_files

Row = dict[str, Any]
LARGEST = 50 * 1024 * 1024
DELIMITERS = ",;\t|"
COLUMN = re.compile(r"^\$\{data\.([^{}]+)\}$")
# A value that is plainly none, by prompt flow's types.
PLACEHOLDERS: dict[str, Any] = {
    "int": 0,
    "double": 0.0,
    "bool": False,
    "list": [],
    "object": {},
    "image": BLANK,
}


@dataclass(frozen=True)
class RunFile:
    """A run as prompt flow describes it in YAML: the data and what of it the flow takes."""

    path: Path
    data: Path | None
    mappings: dict[str, Any]
    document: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The rows for a flow. `path` is the file they come from, null where they were made up.

    `mappings` are those of a run file that names the data; `notes` tell what was taken and what
    else was seen.
    """

    rows: list[Row]
    path: Path | None = None
    mappings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The columns that every row has."""
        return [c for c in (self.rows[0] if self.rows else ()) if all(c in r for r in self.rows)]


def find(interface: Interface, data: Path | None = None) -> Found:
    """The dataset that the user names, or the one beside the flow whose columns fit best.

    Raises:
        UserError: `data` cannot be read as rows.
    """
    folder, runs = interface.flow.folder, run_files(interface)
    if data is not None:
        rows = read(data, interface.inputs)
        return Found(rows, data, _of_run(runs, data), [_taken(data, rows)])
    notes: list[str] = []
    tables: list[tuple[Path, list[Row]]] = []
    for path in _files(folder, runs):
        try:
            tables.append((path, read(path, interface.inputs)))
        except UserError as error:
            if path.suffix.lower() != ".json":  # most JSON files are not meant as data
                notes.append(f"Not taken as data: {error}")
    fit = [(path, rows) for path, rows in tables if _fits(interface, rows, _of_run(runs, path))]
    if not fit:
        return made_up(interface, notes)
    path, rows = max(fit, key=lambda table: _rank(interface, runs, *table))
    others = ", ".join(sorted(_shown(p, folder) for p, _ in fit if p != path))
    seen = [f"Other files with fitting columns: {others}. DATA=<file> takes one."] if others else []
    return Found(rows, path, _of_run(runs, path), [_taken(path, rows), *seen, *notes])


def made_up(interface: Interface, notes: Collection[str] = ()) -> Found:
    """One row of the flow's own samples and defaults; the rest are placeholders."""
    given = {name: value.default for name, value in interface.inputs.items()}
    row = {name: interface.sample.get(name, given[name]) for name in given}
    missing = [name for name, value in row.items() if value is None]
    row |= {name: placeholder(interface.inputs[name]) for name in missing}
    told = ["No data was found beside the flow: one row was made of its defaults and samples."]
    if missing:
        told.append(f"Values to put in place of placeholders: {', '.join(missing)}.")
    return Found([row], None, {}, [*told, *notes])


def placeholder(given: Input) -> Any:
    """A value of the input's type that is plainly none."""
    if given.is_chat_history:
        return []
    return PLACEHOLDERS.get(given.type, f"Replace this {given.name}")


def run_files(interface: Interface, folder: Path | None = None) -> list[RunFile]:
    """The YAML files in a folder, by default beside the flow, that describe a run of the flow."""
    flow, found = interface.flow, []
    for path, document in yaml_files(folder or flow.folder):
        target = document.get("flow")
        if not isinstance(target, str) or "\0" in target:
            continue
        if (path.parent / target).resolve() not in (flow.folder.resolve(), flow.path.resolve()):
            continue
        data = path.parent / str(document["data"]) if document.get("data") else None
        mappings = document.get("column_mapping") or document.get("inputs_mapping")
        mappings = mappings if isinstance(mappings, dict) else {}
        found.append(RunFile(path, data if data and data.is_file() else None, mappings, document))
    return found


def read(path: Path, inputs: Mapping[str, Input]) -> list[Row]:
    """The rows of a .jsonl, .json, .csv or .tsv file; a number in a CSV is one where an input is.

    Raises:
        UserError: it is another kind of file, is broken, or holds no rows.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: not a kind of data (expected one of {', '.join(READERS)}).")
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: larger than {LARGEST >> 20} MB. Take a part of it.")
        rows = reader(_text(path), inputs)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: {error}.") from error
    if not rows:
        raise UserError(f"{path}: has no rows.")
    return rows


def as_jsonl(rows: list[Row]) -> str:
    """The rows as text, one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:4096]:
        raise ValueError("not UTF-8 (UTF-16, it seems). Save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start}). Save the file as UTF-8") from error


def _read_lines(text: str, inputs: Mapping[str, Input]) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number}: expected a JSON object")
            rows.append(row)
    return rows


def _read_json(text: str, inputs: Mapping[str, Input]) -> list[Row]:
    """A list of objects, one object, or an object of columns."""
    try:
        document = json.loads(text)
    except ValueError as error:
        try:
            return _read_lines(text, inputs)  # JSON lines under another name
        except ValueError:
            raise ValueError(f"not JSON ({error})") from None
    if isinstance(document, dict):
        return _of_object(document, inputs)
    if isinstance(document, list) and all(isinstance(item, dict) for item in document):
        return document
    raise ValueError("expected a list of objects")


def _of_object(document: Row, inputs: Mapping[str, Input]) -> list[Row]:
    """Equally long columns, a list under its name, or else one row.

    An object whose values are lists is one row where the inputs are lists themselves.
    """
    values = list(document.values())
    lengths = {len(value) if isinstance(value, list) else -1 for value in values}
    taken = [inputs[name].type for name in document if name in inputs]
    if len(lengths) != 1 or -1 in lengths or (taken and {*taken} <= {"list", ""}):
        return [document]
    if len(values) == 1 and all(isinstance(item, dict) for item in values[0]):
        return list(values[0])
    return [{name: value[at] for name, value in document.items()} for at in range(*lengths)]


def _read_table(text: str, inputs: Mapping[str, Input]) -> list[Row]:
    head = text.lstrip("\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=head.count)
    lines = [r for r in csv.reader(StringIO(text, newline=""), delimiter=delimiter) if any(r)]
    if not lines:
        return []
    names = [name.strip() for name in lines[0]]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("the first line must name each column, and each once")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(names):
            raise ValueError(f"row {number} has {len(line)} columns, the first {len(names)}")
    types = {name: _type_for(name, inputs) for name in names}
    return [
        {name: _typed(text, types[name]) for name, text in zip(names, line, strict=True)}
        for line in lines[1:]
    ]


READERS: dict[str, Callable[[str, Mapping[str, Input]], list[Row]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".json": _read_json,
}


def _type_for(column: str, inputs: Mapping[str, Input]) -> str:
    """The type of the input that takes a column."""
    return next((i.type for n, i in inputs.items() if column in candidates(n, [column])), "")


def _typed(text: str, kind: str) -> Any:
    """The text as a value of the type, or the text itself where it is none."""
    wanted: dict[str, type | tuple[type, ...]] = {"int": int, "double": (int, float)}
    wanted |= {"bool": bool, "list": list, "object": dict}
    if kind not in wanted:
        return text
    try:
        value = json.loads(text.lower() if kind == "bool" else text)
    except ValueError:
        return text
    return value if isinstance(value, wanted[kind]) else text


def _files(folder: Path, runs: list[RunFile]) -> Iterator[Path]:
    """Each file that may hold rows, once: those of run files, then those beside the flow."""
    places = [folder, folder / "data", folder.parent / "data"]
    if folder.parent.name.lower() in GENERIC:  # flows/x: the data is beside flows/
        places.append(folder.parent.parent / "data")
    beside = [path for place in places for path in sorted(place.glob("*"))]
    seen: set[Path] = set()
    for path in (*(run.data for run in runs if run.data), *beside):
        if path.suffix.lower() in READERS and path.resolve() not in seen and path.is_file():
            seen.add(path.resolve())
            yield path


def _fits(interface: Interface, rows: list[Row], mappings: Mapping[str, Any]) -> bool:
    """Whether the rows have something for the flow."""
    needed = interface.required or list(interface.inputs)
    columns = set(rows[0]).intersection(*rows)
    mapped = {n for n, v in mappings.items() if (m := COLUMN.match(str(v))) and m[1] in columns}
    return bool(mapped or meets(needed, columns))


def _rank(
    interface: Interface, runs: list[RunFile], path: Path, rows: list[Row]
) -> tuple[bool, int, int, int, bool, int]:
    """What makes a table a better choice: the run file's first, then the one with most inputs."""
    named = any(run.data and run.data.resolve() == path.resolve() for run in runs)
    columns = set(rows[0]).intersection(*rows)
    exact = sum(name in columns for name in interface.inputs)
    required, every = meets(interface.required, columns), meets(interface.inputs, columns)
    return named, len(required), len(every), exact, path.suffix != ".json", len(rows)


def _of_run(runs: list[RunFile], data: Path) -> dict[str, Any]:
    """The mappings of the run file that names the data."""
    for run in runs:
        if run.data and run.data.resolve() == data.resolve():
            return {k: v for k, v in run.mappings.items() if "${run." not in str(v)}
    return {}


def _taken(path: Path, rows: list[Row]) -> str:
    return f"Data: {path.name} ({len(rows)} row{'s' if len(rows) > 1 else ''})."


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
