"""The packages that an imported flow asks for, held against those that this repo is locked to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from llmops.errors import UserError
from llmops.onboarding import package_lists
from llmops.onboarding.package_lists import Untold, applies
from llmops.onboarding.project import GROUP, PROJECT, parsed, plain

LOCKS = Path("requirements")
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


class _Repo:
    """What this repo asks for and is locked to; what is installed says why."""

    def __init__(self, root: Path) -> None:
        self.groups = _listed(root / PROJECT)
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
    if plain(str(wanted)) in (plain(str(one)) for one in repo.groups.get(GROUP, [])):
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}).") from error


def _pins(lock: str) -> dict[str, set[Version]]:
    """The versions that a lock holds, by the package's name."""
    found: dict[str, set[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


def _known(lines: Iterable[str] | None) -> list[Requirement]:
    """Requirements of an installed package; old ones may not be well-formed."""
    found = []
    for line in lines or ():
        with suppress(InvalidRequirement):
            found.append(Requirement(line))
    return found


def _listed(path: Path) -> dict[str, list[Requirement]]:
    """The groups of pyproject.toml without what they include of each other."""
    groups: dict[str, list[Requirement]] = {}
    for name, lines in parsed(_read(path)).get("dependency-groups", {}).items():
        try:
            groups[name] = [Requirement(line) for line in lines if isinstance(line, str)]
        except InvalidRequirement as error:
            raise UserError(f"{path}: dependency-groups.{name}: {error}") from error
    return groups
