"""A Dockerfile carried out without Docker: enough of it to prove the one of a generated repo.

Every stage is a folder. What an instruction says of /opt, /srv, /build and /tmp is meant of the
folder's own; `pip` is uv with the same arguments, and `python` one of this machine. What a stage
copies from another one is moved, because that one is not used again. A container of the image is a
process of the user that USER names, with none of this process's variables.

Not proven by this: the base image, and that Docker itself agrees.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llmops.image.rules import Instruction, parse, stages

OWN = re.compile(r"(?<![\w./])/(opt|srv|build|tmp)\b")
PIP = """#!/bin/sh
[ "$1" = --python ] && [ "$3" = install ] || exit 64
python="$2"; shift 3
for word; do
  shift
  case "$word" in --no-cache-dir|--no-compile) ;; *) set -- "$@" "$word" ;; esac
done
"{python}" -m uv pip install --quiet --link-mode=copy --python "$python" "$@" || exit
rm -f "${{python%/bin/python}}/.lock"  # uv's own
"""


@dataclass
class Stage:
    """A stage: its files, and what it says of the process that runs them."""

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Where a path of the image lies here; a relative one is below WORKDIR."""
        return self.root / os.path.normpath(Path(self.folder, path)).lstrip("/")

    def here(self, text: str) -> str:
        """A text with its paths as they are on this machine."""
        return OWN.sub(lambda found: f"{self.root}/{found[1]}", text)


class Image:
    """The last stage of a Dockerfile, built from a context in a folder that everyone can enter."""

    def __init__(self, context: Path, place: Path, python: Path) -> None:
        self._context, self._place = context, place
        self._tools = place / "tools"
        self._tools.mkdir()
        (self._tools / "python").symlink_to(python)
        (self._tools / "pip").write_text(PIP.format(python=sys.executable))
        (self._tools / "pip").chmod(0o755)
        self._stages: dict[str, Stage] = {}
        text = (context / "Dockerfile").read_text()
        for number, instructions in enumerate(stages(parse(text))):
            self.stage = Stage(place / f"stage-{number}")
            for one in instructions:
                self._do(one)
        (self.stage.root / "tmp").mkdir(mode=0o777)
        (self.stage.root / "tmp").chmod(0o1777)

    def _do(self, one: Instruction) -> None:
        if one.name in ("LABEL", "EXPOSE"):
            return
        getattr(self, f"_{one.name.lower()}")(one.value)

    def _from(self, value: str) -> None:
        base, _, name = value.partition(" AS ")
        assert re.fullmatch(r"python:3\.1\d-slim-\w+", base), base
        self.stage.root.mkdir()
        self.stage.variables = {"PATH": f"{self._tools}:/usr/bin:/bin"}
        self._stages[name] = self.stage

    def _workdir(self, value: str) -> None:
        self.stage.folder = value
        self.stage.place(value).mkdir(parents=True, exist_ok=True)

    def _env(self, value: str) -> None:
        for word in value.split():
            name, _, text = word.partition("=")
            text = self.stage.here(text)  # before this machine's own paths are in it
            self.stage.variables[name] = text.replace("$PATH", self.stage.variables["PATH"])

    def _copy(self, value: str) -> None:
        *options, source, target = value.split()
        if options:
            other = self._stages[options[0].removeprefix("--from=")]
            self.stage.place(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(other.place(source), self.stage.place(target))
            return
        place, found = self.stage.place(target), sorted(self._context.glob(source))
        assert found, source
        for path in found:
            if path.is_dir():
                shutil.copytree(path, place, dirs_exist_ok=True)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place / path.name)

    def _run(self, value: str) -> None:
        more = {"HOME": os.environ.get("HOME", "/")}  # for uv's cache, as a build's would be
        more |= {
            name: text for name, text in os.environ.items() if name.startswith(("UV_", "SSL_"))
        }
        subprocess.run(
            ["/bin/sh", "-c", self.stage.here(value)],
            cwd=self.stage.place("."),
            env={**more, **self.stage.variables},
            check=True,
        )

    def _user(self, value: str) -> None:
        self.stage.user = value

    def _cmd(self, value: str) -> None:
        self.stage.command = json.loads(value)

    def _healthcheck(self, value: str) -> None:
        self.stage.health = json.loads(value.partition(" CMD ")[2])

    def process(self, command: list[str], **variables: str) -> subprocess.Popen[bytes]:
        """A process of the image; as root, those of another user are USER's."""
        root = os.getuid() == 0
        user, _, group = self.stage.user.partition(":")
        own = {"user": int(user), "group": int(group), "extra_groups": ()} if root else {}
        program = shutil.which(command[0], path=self.stage.variables["PATH"])
        assert program
        return subprocess.Popen(
            [program, *command[1:]],
            cwd=self.stage.place("."),
            env={**self.stage.variables, "TMPDIR": str(self.stage.place("/tmp")), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            umask=0o022,
            **own,  # type: ignore[call-overload]
        )

    @contextmanager
    def container(self, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """The process of CMD; killed where the block does not end it."""
        process = self.process(self.stage.command, **variables)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def healthy(self, **variables: str) -> bool:
        """What HEALTHCHECK says."""
        return self.process(self.stage.health, **variables).wait(timeout=30) == 0

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Nobody may write, not even who owns the files; root's processes are not its user's."""
        every = [p for p in (self.stage.root, *self.stage.root.rglob("*")) if not p.is_symlink()]
        every.remove(self.stage.place("/tmp"))
        for path in every if os.getuid() else ():
            path.chmod(path.stat().st_mode & ~0o222)
        try:
            yield
        finally:
            for path in every if os.getuid() else ():
                path.chmod(path.stat().st_mode | 0o200)

    def writable(self) -> list[str]:
        """The files and folders outside /tmp that the user of the image could change."""
        search = ["find", str(self.stage.root), "-path", str(self.stage.place("/tmp")), "-prune"]
        found = self.process([*search, "-o", "-writable", "!", "-type", "l", "-print"])
        return found.communicate()[0].decode().split()


def interpreter() -> Path | None:
    """A Python that any user may run, of a version that the repo allows; else null."""
    for name in (str(Path(sys.executable).resolve()), "/usr/bin/python3", "/usr/local/bin/python3"):
        path = Path(name).resolve()
        open_to_all = all(
            p.stat().st_mode & 0o005 == 0o005 for p in (path, *path.parents) if p.exists()
        )
        if path.exists() and (os.getuid() or open_to_all) and _fits(path):
            return path
    return None


def _fits(python: Path) -> bool:
    code = "import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    return subprocess.run([python, "-c", code], check=False).returncode == 0
