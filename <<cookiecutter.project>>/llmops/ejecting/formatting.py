"""The new files as ruff formats them, by the repo's own rules."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from llmops.errors import UserError

FIXED = "I,F401"


def formatted(texts: Mapping[Path, str], root: Path) -> dict[Path, str]:
    """The same files with sorted imports and in the repo's format.

    Raises:
        UserError: ruff is not installed, or a text is not Python.
    """
    project = (root / "pyproject.toml").resolve()
    rules = [f"--config={project}"] if project.is_file() else ["--isolated", "--line-length=100"]
    code = [name for name in texts if name.suffix == ".py"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        for name in code:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(texts[name], encoding="utf-8")
        files = [str(folder / name) for name in code]
        same = ["--quiet", "--no-cache", *rules, *files]
        _ruff(root, "check", "--fix-only", f"--select={FIXED}", *same)
        _ruff(root, "format", *same)
        return {name: (folder / name).read_text(encoding="utf-8") for name in code}


def _ruff(root: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())[-300:]
        raise UserError(f"ruff could not format the new files: {told}")
