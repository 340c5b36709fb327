"""The packages that an imported flow asks for, held against those that this repo is locked to."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from llmops.errors import UserError
from llmops.files import write_atomically
from llmops.onboarding import package_lists
from llmops.onboarding.package_lists import Untold, applies

PROJECT = Path("pyproject.toml")
LOCKS = Path("requirements")
GROUP = "flow"
ALWAYS = ("local", GROUP)
"""The groups that every task installs."""


@dataclass
class Packages:
    """What becomes of the packages that are asked for.

    `met` are here already, `new` are lines for the group `flow`. `conflicts` are sentences about
    those that this repo has in another version, which stays; `unclear` are sentences about lines
    that cannot be taken over, by file and line.
    """

    met: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def decide(lists: Iterable[Path], root: Path = Path()) -> Packages:
    """Sort what these lists of pip's (`requirements.txt`) ask for; nothing is written.

    Raises:
        UserError: this repo's own pyproject.toml or its locks cannot be read.
    """
    found, repo = Packages(), _Repo(root)
    for wanted in dict.fromkeys(one for path in lists for one in package_lists.read(path)):
        if isinstance(wanted, Untold):
            found.unclear.append(wanted.words)
        else:
            _sort(wanted, repo, found)
    found.new = sorted(set(found.new), key=str.lower)
    return found


def add(new: Iterable[str], root: Path = Path()) -> bool:
    """Add packages to the group `flow` of pyproject.toml; whether the file changed.

    Every other line stays to the letter, and so do the comments in this list.

    Raises:
        UserError: pyproject.toml has no such list, or cannot be read or written.
    """
    path = root / PROJECT
    text = _read(path)
    before = _parsed(path, text)
    span, listed = _span(text), before["dependency-groups"].get(GROUP)
    if span is None or listed is None:
        raise UserError(f"{path}: dependency-groups.{GROUP}: no such list. Add `{GROUP} = []`.")
    missing = {_plain(line): line for line in new}
    for one in _listed(path, before)[GROUP]:
        missing.pop(_plain(str(one)), None)
    if not missing:
        return False
    block = _extended(text[slice(*span)], missing.values())
    changed = text[: span[0]] + block.replace("\n", _line_end(text)) + text[span[1] :]
    before["dependency-groups"][GROUP] = [*listed, *missing.values()]
    if _without_order(_parsed(path, changed)) != _without_order(before):
        raise UserError(
            f"{path}: dependency-groups.{GROUP}: the list cannot be extended. "
            "Write it with one package a line."
        )
    with write_atomically(path) as file:
        file.write(changed)
    return True


class _Repo:
    """What this repo asks for and is locked to; what is installed says why."""

    def __init__(self, root: Path) -> None:
        self.groups = _listed(root / PROJECT, _parsed(root / PROJECT, _read(root / PROJECT)))
        self._locks = {path.stem: _pins(_read(path)) for path in (root / LOCKS).glob("*.txt")}
        if "local" not in self._locks:
            raise UserError(f"{root / LOCKS / 'local.txt'}: not found. Write it: `make lock`.")

    def versions(self, name: str, groups: Iterable[str] = ()) -> set[Version]:
        """The versions of a package in the locks of these groups, or of all: one a platform."""
        locks = [self._locks.get(group, {}) for group in groups or self._locks]
        return {version for lock in locks for version in lock.get(name, ())}

    def asked(self) -> Iterator[tuple[str, Requirement]]:
        """Who asks for what: the groups of pyproject.toml, then the locked packages."""
        yield from ((PROJECT.name, one) for group in self.groups.values() for one in group)
        yield from self._installed

    @cached_property
    def _installed(self) -> list[tuple[str, Requirement]]:
        return [
            (name, wanted)
            for one in metadata.distributions()
            if self.versions(name := canonicalize_name(one.metadata["Name"] or "-"))
            for wanted in _known(one.requires)
            if applies(wanted)
        ]


def _sort(wanted: Requirement, repo: _Repo, found: Packages) -> None:
    """Put a package where it belongs."""
    name = canonicalize_name(wanted.name)
    # Prompt flow's own parts are this repo's choice, extras as `azure` come with their tasks.
    own = name == "promptflow" or name.startswith("promptflow-")
    locked = repo.versions(name)
    here = bool(locked if own else repo.versions(name, ALWAYS))
    if _plain(str(wanted)) in (_plain(str(one)) for one in repo.groups.get(GROUP, [])):
        found.met.append(str(wanted))
    elif not locked:
        found.new.append(str(wanted))
    elif wanted.url or not all(wanted.specifier.contains(one, True) for one in locked):
        found.conflicts.append(_conflict(wanted, locked, repo))
        found.new += [] if here else [wanted.name]
    elif here and (own or _has_extras(wanted, repo)):
        found.met.append(str(wanted))
    else:
        found.new.append(str(wanted))


def _conflict(wanted: Requirement, locked: set[Version], repo: _Repo) -> str:
    """What is asked, what this repo is locked to, and who needs that where it is known."""
    asks = f"{wanted.name} from an address" if wanted.url else f"{wanted.name}{wanted.specifier}"
    name = canonicalize_name(wanted.name)
    said = f"the flow asks {asks}; this repo is locked to {name} "
    said += " and ".join(map(str, sorted(locked)))
    for who, other in repo.asked():
        if canonicalize_name(other.name) == name:
            for needed in sorted(other.specifier, key=str):
                if _excludes(needed, wanted.specifier):
                    return f"{said}, because {who} needs {needed}"
    return said


def _excludes(needed: Specifier, wanted: SpecifierSet) -> bool:
    """Whether no wanted version is one that is needed, judged by the bounds of what is wanted."""
    bounds = [bound for one in wanted for bound in _bounds(one)]
    return bool(bounds) and not any(needed.contains(bound, True) for bound in bounds)


def _bounds(one: Specifier) -> list[str]:
    """The outermost versions that a specifier lets through, as far as they have a name."""
    version = one.version.removesuffix(".*")
    if one.operator == "~=":
        *first, last, _ = Version(version).release
        return [version, ".".join(map(str, (*first, last + 1))) + ".dev0"]
    shifted = {"<": [f"{version}.dev0"], ">": [f"{version}.post1"], "!=": [], "===": []}
    return shifted.get(one.operator, [version])


def _has_extras(wanted: Requirement, repo: _Repo) -> bool:
    """Whether the packages that the extras bring are installed with every task."""
    try:
        brought = _known(metadata.requires(wanted.name)) if wanted.extras else []
    except metadata.PackageNotFoundError:
        return False
    names = {
        canonicalize_name(one.name)
        for one in brought
        for extra in wanted.extras
        if not applies(one) and one.marker and one.marker.evaluate({"extra": extra})
    }
    return all(repo.versions(name, ALWAYS) for name in names)


# --- pyproject.toml and the locks

_ENTRY = r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\{[^}\n]*\}"""
_COMMENT = r"#[^\r\n]*"


def _span(text: str) -> tuple[int, int] | None:
    """Where the list of the group begins and ends."""
    table = re.search(r"^\[dependency-groups\]", text, re.MULTILINE)
    begin = re.compile(rf"^{GROUP}[ \t]*=[ \t]*(?=\[)", re.MULTILINE)
    found = begin.search(text, table.end()) if table else None
    if found is None:
        return None
    parts = re.compile(rf"{_ENTRY}|{_COMMENT}|\]").finditer(text, found.end())
    end = next((part.end() for part in parts if part[0] == "]"), None)
    return None if end is None else (found.end(), end)


def _extended(block: str, new: Iterable[str]) -> str:
    """A TOML list with more entries, one a line and sorted; comments stay with their entry."""
    entries: list[tuple[str, list[str], str]] = []  # the entry, what stands above and behind it
    above: list[str] = []
    same_line = False
    for part in re.finditer(rf"({_ENTRY})|({_COMMENT})|\n", block):
        if part[1]:
            entries.append((part[1], above, ""))
            above = []
        elif part[2] and same_line:
            entries[-1] = (*entries[-1][:2], f" {part[2]}")
        elif part[2]:
            above.append(part[2])
        same_line = bool(part[1]) or (same_line and bool(part[2]))
    entries += [(_quoted(line), [], "") for line in new]
    entries.sort(key=lambda entry: entry[0].strip("\"'").lower())
    lines = [
        line for text, before, behind in entries for line in (*before, f"{text},{behind}")
    ] + above
    return "\n".join(("[", *(f"  {line}" for line in lines), "]"))


def _quoted(line: str) -> str:
    return f"'{line}'" if '"' in line and "'" not in line else json.dumps(line, ensure_ascii=False)


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _read(path: Path) -> str:
    """A text with the line ends that it has."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}).") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return {"dependency-groups": {}} | tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}.") from error


def _without_order(project: dict[str, Any]) -> dict[str, Any]:
    """The same with the group sorted, to compare."""
    groups = project["dependency-groups"]
    return {**project, "dependency-groups": {**groups, GROUP: sorted(map(str, groups[GROUP]))}}


def _pins(lock: str) -> dict[str, set[Version]]:
    """The versions that a lock holds, by the package's name."""
    found: dict[str, set[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


def _plain(line: str) -> str:
    """A requirement in the one way that makes equal ones equal."""
    wanted = Requirement(line)
    wanted.name = canonicalize_name(wanted.name)
    return str(wanted)


def _known(lines: Iterable[str] | None) -> list[Requirement]:
    """Requirements of an installed package; old ones may not be well-formed."""
    found = []
    for line in lines or ():
        with suppress(InvalidRequirement):
            found.append(Requirement(line))
    return found


def _listed(path: Path, project: dict[str, Any]) -> dict[str, list[Requirement]]:
    """The groups without what they include of each other."""
    groups: dict[str, list[Requirement]] = {}
    for name, lines in project["dependency-groups"].items():
        try:
            groups[name] = [Requirement(line) for line in lines if isinstance(line, str)]
        except InvalidRequirement as error:
            raise UserError(f"{path}: dependency-groups.{name}: {error}") from error
    return groups
