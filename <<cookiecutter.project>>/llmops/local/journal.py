"""Lines of JSON that a router appends: requests.jsonl and feedback.jsonl, bounded in size."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmops.lines import appending, stamped

MOST_BYTES = 64 * 2**20
OLDER = 3
"""Earlier parts that are kept, as requests.1.jsonl (the last one) to requests.3.jsonl."""


class Journal:
    """One file of lines; what cannot be written, as on a full disk, is left out and counted."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = path, most_bytes
        self._file = -1
        self._size = self.lost = 0

    def add(self, **values: Any) -> None:
        """Append a line, with the time first."""
        line = stamped(values)
        try:
            if self._file < 0 or self._size > self._most:
                self._open()
            self._size += os.write(self._file, line)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        self.close()
        if self._path.exists() and self._path.stat().st_size > self._most:
            for number in range(OLDER, 0, -1):
                with suppress(FileNotFoundError):
                    self._part(number - 1).replace(self._part(number))
        self._file = appending(self._path)
        self._size = os.fstat(self._file).st_size

    def _part(self, number: int) -> Path:
        suffix = f".{number}{self._path.suffix}" if number else self._path.suffix
        return self._path.with_name(self._path.stem + suffix)
