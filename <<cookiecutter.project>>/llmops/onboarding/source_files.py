"""Read the configuration files of an older repo, and find what they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from llmops.errors import UserError
from llmops.files import parse_yaml, read_document, read_text
from llmops.onboarding.proposal import Document

SUFFIXES = (".json", ".yaml", ".yml")
_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA = re.compile(r'("(?:\\.|[^"\\\n])*")|,(?=\s*[}\]])')


def find(folder: Path, stem: str, *places: str) -> Path | None:
    """The first file `stem` with a suffix of JSON or YAML in these subfolders ("" is itself)."""
    paths = (folder / place / f"{stem}{suffix}" for place in places for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read(path: Path) -> Document:
    """The keys and values of a JSON or YAML file; JSON may have comments and trailing commas.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    return read_document(path, _parse_json if path.suffix == ".json" else parse_yaml)


def read_commented(path: Path) -> Document:
    """As `read` a YAML file, but what is changed in it and written again keeps its comments."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import RoundTripConstructor

    class Texts(RoundTripConstructor):  # type: ignore[misc, unused-ignore]
        """A date stays the text that it is."""

    def text(loader: RoundTripConstructor, node: Any) -> Any:
        return loader.construct_scalar(node)

    plain = read(path)
    Texts.add_constructor("tag:yaml.org,2002:timestamp", text)
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.Constructor = Texts
    document = yaml.load(read_text(path))
    return document if isinstance(document, dict) else plain


def block(document: Document, key: str, path: Path) -> Document:
    """The keys and values under a key, which may be missing.

    Raises:
        UserError: it is something else.
    """
    found = document.get(key) or {}
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise UserError(f"{path}: {key}: expected keys and values, found a {kind}.")
    return found


def objects(document: Document, key: str, path: Path) -> list[Document]:
    """The list of objects under a key, which may be missing.

    Raises:
        UserError: it is something else.
    """
    found = document.get(key) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UserError(f"{path}: {key}: expected a list of objects.")
    return found


def locate(folder: Path, text: str, below: str = "") -> str | None:
    """Where in the folder a path leads, relative to it; null where nothing is there.

    It may be written from the folder, from its subfolder `below`, or from a folder above it.
    """
    path = PurePosixPath(text.strip().replace("\\", "/"))
    parts = [part for part in path.parts if part not in (".", "/")]
    if not parts:
        return None
    tries = [(*parts,), (below, *parts), *(tuple(parts[at:]) for at in range(1, len(parts)))]
    for candidate in (PurePosixPath(*one) for one in tries):
        if ".." not in candidate.parts and (folder / candidate).exists():
            return candidate.as_posix()
    return None


def words(value: Any) -> Iterator[str]:
    """The parts of `a, b`, or the texts of a list."""
    parts = value if isinstance(value, list) else str(value or "").split(",")
    yield from (str(part).strip() for part in parts if str(part).strip())


def _parse_json(text: str) -> Any:
    bare = _COMMENT.sub(lambda match: match[1] or " ", text)
    try:
        return json.loads(_LAST_COMMA.sub(lambda match: match[1] or "", bare))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
