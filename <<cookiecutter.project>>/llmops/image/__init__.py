"""What an image is built from: `environment/`, the locked packages, and the library's server.

The context has three parts: the files of `environment/` at its top, the locks beside them, and in
`srv/` what becomes /srv of the image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from llmops import code, flows
from llmops.config import Experiment
from llmops.errors import UserError
from llmops.flows import IGNORED, Flow
from llmops.image import closure

FOLDER = Path("environment")
LOCKS = {
    "requirements.txt": Path("requirements/local.txt"),
    "flow-requirements.txt": Path("requirements/flow.txt"),
}
PAYLOAD = "srv"
"""The folder of the context that becomes the image's folder of the same name."""
ENTRIES = ("llmops.serving.container", "llmops.serving.health")
"""The modules that the image runs."""


def locks(experiment: Experiment, flow: Flow) -> dict[str, Path]:
    """The locks that only this flow's image wants, by their name in the context."""
    imported = code.imported(path for _, path in flows.files(flow))
    wanted = {
        "agent-framework": "agent_framework" in imported,
        "index": bool(experiment.index),
        "promptflow": flow.kind != "python" or "promptflow" in imported,
    }
    names = [name for name, needed in wanted.items() if needed]
    return {f"{name}-requirements.txt": Path(f"requirements/{name}.txt") for name in names}


def files(more: Mapping[str, Path], root: Path = Path()) -> dict[str, Path]:
    """The files of the build context by their name in it, and `more` of them.

    The locks stand there as LOCKS names them; a file of such a name in `environment/` comes first.
    A list in the flow's own folder does not count: what it asks beside them is locked in the group
    `flow`, so that nothing else changes. Of the library only what the server imports comes along.

    Raises:
        UserError: there is no Dockerfile.
    """
    folder = root / FOLDER
    if not (folder / "Dockerfile").is_file():
        raise UserError(f"{FOLDER}/Dockerfile: not found. It says what a deployment runs in.")
    places = {name: root / path for name, path in {**LOCKS, **more}.items()}
    found = {name: path for name, path in places.items() if path.is_file()}
    for name, path in closure.files(*ENTRIES).items():
        found[f"{PAYLOAD}/{name}"] = path
    return found | below(folder)


def below(folder: Path, prefix: str = "") -> dict[str, Path]:
    """The files of a folder by their names behind `prefix`, without caches."""
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder) for path in every}
    kept = {path: name for path, name in names.items() if not IGNORED & set(name.parts)}
    return {f"{prefix}{name.as_posix()}": path for path, name in kept.items()}


def digest(context: Mapping[str, Path]) -> str:
    """A short hash over names and contents; line endings do not count."""
    content = hashlib.sha256()
    for name, path in sorted(context.items()):
        data = path.read_bytes().replace(b"\r\n", b"\n")
        content.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    return content.hexdigest()[:16]


def collect(context: Mapping[str, Path], folder: Path) -> None:
    """Copy the build context into a folder, with the modes and times that `pack` gives."""
    for name, path in sorted(context.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (0, 0))


def pack(context: Mapping[str, Path]) -> bytes:
    """The build context as a tar: the same bytes for the same files, wherever they lie."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(context.items()):
            data = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def zipped(context: Mapping[str, Path]) -> bytes:
    """The same, compressed."""
    return gzip.compress(pack(context), mtime=0)
