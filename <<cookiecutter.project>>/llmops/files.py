"""Read and write files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from llmops.errors import UserError

UNENCODABLE = "backslashreplace"
"""How half a surrogate pair, which a model may answer, is written: `\\udXXX`, as in JSON."""


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[str]]:
    """Open a text file that takes its place under `path` only when it is complete.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    with (
        _beside(path) as beside,
        beside.open("w", encoding="utf-8", errors=UNENCODABLE, newline="") as file,
    ):
        yield file


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file with its mode; it takes its place when it is complete. Raises as above."""
    with _beside(path) as beside:
        shutil.copyfile(source, beside)
        shutil.copymode(source, beside)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path whose file, once it is written, becomes that of `path`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise UserError, as writing would, where a file or a folder above it cannot be made."""
    there = next(place for place in path.absolute().parents if place.exists())
    try:
        # A file that has no name, or is gone at once: nothing is left behind.
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """What to tell the user when a file cannot be written."""
    blocking = next((p for p in path.parents if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        return UserError(
            f"{path}: cannot be written: {blocking} is a file, not a folder. Remove it."
        )
    return UserError(
        f"{path}: cannot be written ({error.strerror or error}). "
        "Free some space or make the folder writable, then run again."
    )


@contextmanager
def locked(path: Path, taken: str, wait: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the lock of a file, which one process at a time can do.

    `wait` is asked each time that another has it whether to try again.

    Raises:
        UserError: another has it (`taken` says so), or the file cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise unwritable(path, error) from error
    with file:
        while not lock(file.fileno()):
            if not wait():
                raise UserError(taken)
        yield


def lock(handle: int) -> bool:
    """Lock what a descriptor has open, until it is closed; false where another process did."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_text(path: Path, missing: str = "") -> str:
    """The text of a file.

    Raises:
        UserError: it cannot be read, is not UTF-8, or is not there; `missing` says what to do then.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        if missing and isinstance(error, FileNotFoundError):
            raise UserError(f"{path}: not found. {missing}") from error
        raise unreadable(path, error) from error


def read_document(
    path: Path, parse: Callable[[str], Any] | None = None, missing: str = ""
) -> dict[str, Any]:
    """The keys and values in a file, of YAML unless `parse` reads it, which raises ValueError.

    Raises:
        UserError: as `read_text` does; or it is something else than keys and values.
    """
    text = read_text(path, missing)
    try:
        document = (parse or parse_yaml)(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error
    if not isinstance(document, dict | None):
        kind = type(document).__name__
        raise UserError(f"{path}: expected keys and values at the top, found a {kind}.")
    return document or {}


def unreadable(path: Path, error: OSError) -> UserError:
    """What to tell the user when a file cannot be read."""
    return UserError(f"{path}: cannot be read ({error.strerror}).")


def parse_yaml(text: str) -> Any:
    """The document in a YAML text, of JSON's types alone: a date stays the text that it is.

    Raises:
        ValueError: it is not YAML, or not as simple; says in which line, and quotes no value,
            because that may be a key.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import MarkedYAMLError

    class Texts(SafeConstructor):
        pass

    Texts.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Texts
    try:
        return json.loads(json.dumps(yaml.load(text)))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        doubled = re.match(r'found duplicate key "(.*?)" with', error.problem or "", re.S)
        what = f"the key '{doubled[1]}' stands twice" if doubled else error.problem
        raise ValueError(f"line {line}: not valid YAML: {what}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply, or within itself") from None
    except Exception as error:  # ruamel lets through whatever a broken value causes
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None


def slug(text: str) -> str:
    """A name that is safe as a folder: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "_"


def end_last_line(path: Path) -> None:
    """Give the last line its end where a kill or an editor left it without; raises OSError.

    What is appended then starts on its own line. A file that is not there stays so.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
