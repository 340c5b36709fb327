"""Read and write files so that a reader never sees half of one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from llmops.errors import UserError


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[str]]:
    """Open a text file that takes its place under `path` only when it is complete.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8", newline="") as file:
            yield file
        beside.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). "
            "Free some space or make the folder writable, then run again."
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def slug(text: str) -> str:
    """A name that is safe as a folder: letters, digits, dot, dash and underscore."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "_"
