"""What an image is built from: `environment/`, the locked packages, and those of the flow."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from llmops.errors import UserError
from llmops.flows import IGNORED, Flow

FOLDER = Path("environment")
LOCK = Path("requirements/local.txt")


def files(flow: Flow, more: Mapping[str, Path], root: Path = Path()) -> dict[str, Path]:
    """The files of the build context by their name in it, and `more` of them.

    The lock stands there as `requirements.txt`, the flow's own list as `flow-requirements.txt`; a
    file of this name in `environment/` comes first.

    Raises:
        UserError: there is no Dockerfile.
    """
    folder = root / FOLDER
    if not (folder / "Dockerfile").is_file():
        raise UserError(f"{FOLDER}/Dockerfile: not found. It says what a deployment runs in.")
    lists = {"requirements.txt": LOCK, **more}
    places = {name: root / path for name, path in lists.items()}
    places["flow-requirements.txt"] = flow.folder / "requirements.txt"
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
