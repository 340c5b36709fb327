"""The files of a folder that may come along, and why others stay: keys, size, where links lead."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from llmops.flows import IGNORED
from llmops.onboarding import keys
from llmops.onboarding.proposal import Copied, Left

SIZE_LIMIT = 50_000_000
"""Bytes above which a file stays."""

CACHES = IGNORED | {
    *(".svn", ".hg", ".tox", ".nox", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"),
    *("node_modules", ".DS_Store"),
}
ENVIRONMENT = (".env", ".env.*", "*.env", ".envrc")
ENVIRONMENT_EXAMPLE = re.compile(r"(^|\.)(example|sample|template|dist)(\.|$)")
KEY_FILES = (
    *("*.pem", "*.key", "*.pfx", "*.p12", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("*.crt", "*.cer", "*.der", "*.gpg", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
    *(".netrc", "_netrc", ".pypirc", ".pgpass", ".git-credentials"),
)


def collect(
    folder: Path, target: Path, *, root: Path | None = None, skip: Collection[str] = ()
) -> tuple[list[Copied], list[Left]]:
    """Every file of `folder` with its place below `target`, and what stays behind and why.

    Caches, virtual environments and what version control keeps are passed over, and so are the
    paths in `skip`, relative to the folder. A symlink counts as what it leads to if that is inside
    `root` (default: the folder). What stays: links that lead elsewhere, files over SIZE_LIMIT,
    environment files, private keys and certificates, files that hold a key, and what cannot be
    read. A reason never quotes a key.
    """
    walk = _Walk(folder.resolve(), (root or folder).resolve(), frozenset(skip))
    found = list(walk.files(walk.folder, "", {walk.folder}))
    return [Copied(source, target / name) for name, source in found], walk.left


class _Walk:
    """One way through a folder; `left` fills up on it."""

    def __init__(self, folder: Path, root: Path, skip: frozenset[str]) -> None:
        self.folder = folder
        self.left: list[Left] = []
        self._root = root
        self._skip = skip

    def files(self, here: Path, below: str, above: set[Path]) -> Iterator[tuple[str, Path]]:
        """The files to copy: the name that each gets, and where it is.

        `above` are the real folders on the way here. Below a link it keeps all that were seen, so
        that links that lead to each other come to an end.
        """
        try:
            entries = sorted(here.iterdir())
        except OSError as error:
            self._leave(below, f"the folder cannot be read ({error.strerror})")
            return
        for path in entries:
            name = f"{below}{path.name}"
            try:
                if name not in self._skip and not _is_cache(path):
                    yield from self._entry(path, name, above)
            except OSError as error:
                self._leave(name, f"it cannot be read ({error.strerror})")

    def _entry(self, path: Path, name: str, above: set[Path]) -> Iterator[tuple[str, Path]]:
        real, reason = self._lead(path)
        if reason:
            self._leave(name, reason)
        elif not real.is_dir():
            if reason := _named(path.name) or _named(real.name) or _content(real):
                self._leave(name, reason)
            else:
                yield name, real
        elif real in above:
            self._leave(name, "a folder that comes along already: symlinks lead in a circle")
        else:
            below_a_link = path != self.folder / name
            if below_a_link:
                above.add(real)
            yield from self.files(real, f"{name}/", above if below_a_link else above | {real})

    def _lead(self, path: Path) -> tuple[Path, str]:
        """Where a path leads, and why that may not come along."""
        if not path.name.isprintable():
            return path, "its name is not UTF-8 or holds characters that do not show"
        if not path.is_symlink():
            return path, ""
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError:
            return path, "a symlink that leads nowhere"
        if not real.is_relative_to(self._root):
            return real, f"a symlink that leads outside {self._root.name}"
        inside = (place for place in (real, *real.parents) if place.is_relative_to(self._root))
        if any(_is_cache(place) for place in inside if place != self._root):
            return real, "a symlink into a cache or into what version control keeps"
        return real, ""

    def _leave(self, name: str, reason: str) -> None:
        """Keep the reason; what of the name does not show, or is not UTF-8, becomes escapes."""
        shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)
        self.left.append(Left(self.folder / shown, reason))


def _is_cache(path: Path) -> bool:
    """Whether this comes from a tool and belongs to no flow."""
    name = path.name
    made = name in CACHES or name.endswith((".pyc", ".egg-info"))
    return made or (path / "pyvenv.cfg").is_file()


def _named(name: str) -> str:
    """Why a file of this name stays; empty if it may come along."""
    name = name.lower()
    if _is_one(name, ENVIRONMENT) and not ENVIRONMENT_EXAMPLE.search(name):
        return "an environment file, which may hold keys"
    if _is_one(name, KEY_FILES):
        return "a file of keys, passwords or certificates, by its name"
    return ""


def _is_one(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _content(real: Path) -> str:
    """Why a file with this content stays; empty if it may come along; raises OSError."""
    found = real.stat()
    if not stat.S_ISREG(found.st_mode):
        return "not a file with content, but a device, a pipe or a socket"
    if found.st_size > SIZE_LIMIT:
        return f"{found.st_size / 1e6:,.0f} MB, more than {SIZE_LIMIT / 1e6:.0f} MB"
    key = keys.find(real.read_bytes())
    if key is None:
        return ""
    return f"line {key.line} holds what looks like {key.kind}" if key.line else f"holds {key.kind}"
