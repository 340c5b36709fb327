"""pyproject.toml: the packages that an imported flow brings, and whose style its files have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmops.errors import UserError

PROJECT = Path("pyproject.toml")
GROUP = "flow"


def extended(text: str, packages: Iterable[str], folders: Iterable[str] = ()) -> str:
    """The text of pyproject.toml with more packages in the group `flow`; all else stays.

    `folders` hold code in a style of its own, which ruff leaves alone.

    Raises:
        UserError: it is not TOML, or lacks the list.
    """
    project = parsed(text)
    group = _list(project, "dependency-groups", GROUP)
    here = {plain(str(entry)) for entry in group if isinstance(entry, str)}
    _add(group, {plain(line): line for line in packages if plain(line) not in here}.values())
    if folders := sorted(folders):
        alone = _list(project, "tool.ruff", "extend-exclude")
        _add(alone, [folder for folder in folders if folder not in list(alone)])
    return tomlkit.dumps(project)


def parsed(text: str) -> Any:
    """The document behind the text of pyproject.toml; raises UserError where it is none."""
    try:
        return tomlkit.parse(text)
    except tomlkit.exceptions.TOMLKitError as error:
        raise UserError(f"{PROJECT}: not valid TOML: {error}.") from error


def plain(line: str) -> str:
    """A requirement in the one way that makes equal ones equal."""
    wanted = Requirement(line)
    wanted.name = canonicalize_name(wanted.name)
    return str(wanted)


def _list(project: Mapping[str, Any], table: str, key: str) -> Any:
    block: Any = project
    for part in table.split("."):
        block = block.get(part, {})
    if key not in block:
        raise UserError(f"{PROJECT}: {table}.{key}: no such list. Add `{key} = []`.")
    return block[key]


def _add(entries: Any, new: Iterable[str]) -> None:
    """One a line, behind those that are there."""
    more, in_one_line = list(new), "\n" not in entries.as_string()
    for entry in more:
        entries.add_line(entry, indent="  ")
    if more and in_one_line:
        entries.add_line(indent="")
