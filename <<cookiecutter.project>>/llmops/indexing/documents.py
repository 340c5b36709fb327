"""The documents of a folder: which files, under which names, with which content."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmops.errors import UserError

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")


@dataclass(frozen=True)
class Document:
    """One file; `source` is its path below the folder, with `/`, as passages are cited by it.

    `same_as` is the source of an earlier document with the same content, whose passages stand for
    both.
    """

    source: str
    path: Path
    sha256: str
    same_as: str = ""


def found(folder: Path) -> list[Document]:
    """The documents below a folder, by name; files of other kinds are none (see `passed_over`).

    Raises:
        UserError: as `listed`, or a file cannot be read.
    """
    first: dict[str, str] = {}
    made, problems = [], []
    for source, path in listed(folder).items():
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror}). Check its rights.")
            continue
        same = first.setdefault(content, source)
        made.append(Document(source, path, content, same if same != source else ""))
    if problems:
        raise UserError("\n".join(problems))
    return made


def listed(folder: Path) -> dict[str, Path]:
    """The documents' files by name, which nobody has read.

    Raises:
        UserError: the folder is not there or holds no document, or a link leads out of the folder;
            every problem, one a line.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Put documents there ({', '.join(SUFFIXES)}).")
    paths, problems = {}, []
    for path in sorted(_files(folder), key=lambda path: _source(path, folder)):
        if path.is_symlink() and (path.is_dir() or not _inside(path, folder)):
            told = f"a link to a folder or out of {folder}. Put a copy of the document here."
            problems.append(f"{path}: {told}")
        elif path.suffix.lower() in SUFFIXES:
            paths[_source(path, folder)] = path
    if problems:
        raise UserError("\n".join(problems))
    if not paths:
        raise UserError(f"{folder}: holds no document. Put some there ({', '.join(SUFFIXES)}).")
    return paths


def passed_over(folder: Path) -> list[str]:
    """The names of files that are no documents, because of their kind."""
    return sorted(
        _source(path, folder) for path in _files(folder) if path.suffix.lower() not in SUFFIXES
    )


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _source(path: Path, folder: Path) -> str:
    # One spelling for an umlaut, which file systems write in two ways.
    return unicodedata.normalize("NFC", path.relative_to(folder).as_posix())


def _files(folder: Path) -> Iterator[Path]:
    """Every file and link, hidden ones left out; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".") and name not in links]
        yield from (Path(place, name) for name in (*names, *links) if not name.startswith("."))
