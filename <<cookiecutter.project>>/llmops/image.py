"""What an image is built from: `environment/` and the locked packages, as a task has them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from llmops.errors import UserError
from llmops.flows import IGNORED

FOLDER = Path("environment")
LOCKS = {
    "requirements.txt": Path("requirements/local.txt"),
    "flow-requirements.txt": Path("requirements/flow.txt"),
}


def files(more: Mapping[str, Path], root: Path = Path()) -> dict[str, Path]:
    """The files of the build context by their name in it, and `more` of them.

    The locks stand there as LOCKS names them; a file of such a name in `environment/` comes first.
    A list in the flow's own folder does not count: what it asks beside them is locked in the group
    `flow`, so that nothing else changes.

    Raises:
        UserError: there is no Dockerfile.
    """
    folder = root / FOLDER
    if not (folder / "Dockerfile").is_file():
        raise UserError(f"{FOLDER}/Dockerfile: not found. It says what a deployment runs in.")
    places = {name: root / path for name, path in {**LOCKS, **more}.items()}
    found = {name: path for name, path in places.items() if path.is_file()}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not IGNORED & set(path.relative_to(folder).parts):
            found[path.relative_to(folder).as_posix()] = path
    return found


def digest(context: dict[str, Path]) -> str:
    """A short hash over names and contents; line endings do not count."""
    content = hashlib.sha256()
    for name, path in sorted(context.items()):
        data = path.read_bytes().replace(b"\r\n", b"\n")
        content.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    return content.hexdigest()[:16]


def collect(context: dict[str, Path], folder: Path) -> None:
    """Copy the build context into a folder."""
    for name, path in context.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
