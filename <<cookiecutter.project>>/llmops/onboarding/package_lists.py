"""Read lists of packages as pip reads them (`requirements.txt`), without installing anything."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from llmops.onboarding import keys

EARLIER_NAMES = {"promptflow-sdk": "promptflow"}
"""Packages that go by another name today, with versions counted anew."""

ENVIRONMENTS = [
    {"extra": "", "python_version": python, "python_full_version": f"{python}.0", **system}
    for python, system in product(
        ("3.11", "3.12", "3.13"),
        (
            {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
            {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"}
            | {"platform_machine": "arm64"},
            {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
        ),
    )
]
"""Where the locks hold."""

_OTHER_LIST = re.compile(r"(?:-r\s*|--requirement[\s=]+)(.+)")
_OPTION = re.compile(r"--?[a-z][\w-]*")
_REASONS = {
    **dict.fromkeys(("-e", "--editable"), "a folder or repository to edit cannot be locked"),
    **dict.fromkeys(
        ("-c", "--constraint"), "constraints are not taken over: the locks of this repo decide"
    ),
}


@dataclass(frozen=True)
class Untold:
    """A line that cannot be taken over: where it stands and why, as a sentence.

    The line itself is not quoted, as addresses may hold passwords.
    """

    words: str


def read(path: Path) -> Iterator[Requirement | Untold]:
    """What a list asks for, with the lists below its folder that it names.

    Lines for another Python or another system than this repo is for are passed over.
    """
    yield from _read(path, path.parent.resolve(), set())


def applies(wanted: Requirement) -> bool:
    """Whether a requirement counts anywhere that the locks hold."""
    marker = wanted.marker
    return marker is None or any(marker.evaluate(dict(one)) for one in ENVIRONMENTS)


def _read(path: Path, within: Path, seen: set[Path]) -> Iterator[Requirement | Untold]:
    if path.resolve() in seen:
        return
    seen.add(path.resolve())
    try:
        text = _decoded(path.read_bytes())
    except OSError as error:
        yield Untold(f"{path}: cannot be read ({error.strerror})")
        return
    except UnicodeDecodeError:
        yield Untold(f"{path}: not UTF-8, so that its packages are not known")
        return
    for number, line in _lines(text):
        if other := _OTHER_LIST.fullmatch(line):
            named = path.parent / other[1].strip("'\"")
            if named.resolve().is_relative_to(within):
                yield from _read(named, within, seen)
            else:
                yield Untold(f"{path}: line {number}: a list outside {within.name} is not read")
            continue
        wanted = _requirement(line)
        if isinstance(wanted, str):
            yield Untold(f"{path}: line {number}: {wanted}")
        elif applies(wanted):
            yield wanted


def _decoded(data: bytes) -> str:
    """Text as pip takes it: PowerShell writes UTF-16."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers: continued ones in one, without comments and empty ones."""
    begun, start = "", 0
    for number, part in enumerate((*text.splitlines(), ""), 1):
        start = start if begun else number
        comment = re.search(r"(?:^|\s)#", part)
        begun += part[: comment.start()] if comment else part
        if begun.endswith("\\") and not comment:
            begun = begun[:-1] + " "
            continue
        if begun.strip():
            yield start, begun.strip()
        begun = ""


def _requirement(line: str) -> Requirement | str:
    """What a line asks for, or why it cannot be taken over."""
    if option := _OPTION.match(line):
        other = f"{option[0]} is not taken over: where packages come from is set on each machine"
        return _REASONS.get(option[0], other)
    text = re.sub(r"\s--?[a-z].*", "", line)
    try:
        if re.match(r"https?://", text):
            wheel = parse_wheel_filename(urlsplit(text).path.rpartition("/")[2])
            text = f"{wheel[0]} @ {text}"
        wanted = Requirement(text)
    except (InvalidRequirement, InvalidWheelFilename, ValueError):
        return "an address alone" if "://" in text else "not a package's name with its versions"
    reason = _unlockable(wanted.url) if wanted.url else ""
    name = EARLIER_NAMES.get(canonicalize_name(wanted.name))
    return f"{wanted.name}: {reason}" if reason else Requirement(name) if name else wanted


def _unlockable(url: str) -> str:
    """Why a package from this address cannot be locked with a hash; empty if it can."""
    parts = urlsplit(url)
    if parts.username or parts.password or "$" in url or keys.find(url.encode()):
        return "its address holds a name, a key or a variable"
    if parts.scheme not in ("http", "https"):
        return f"an address that begins with {parts.scheme or 'a folder'} has no hash to lock"
    return ""
