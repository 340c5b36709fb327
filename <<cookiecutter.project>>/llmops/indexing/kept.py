"""Vectors that are there already: nobody pays for them twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llmops.config import Index
from llmops.indexing import manifest
from llmops.indexing.chunks import Chunk, Vectors
from llmops.indexing.documents import Document
from llmops.indexing.manifest import Origin

JOURNAL = "embedded.sqlite"


def name(block: Index, origin: Origin, text: str) -> str:
    """The name of an embedding: equal where the same model gives the same vector."""
    asked = json.dumps([block.model, block.dimensions, origin, text])
    return hashlib.sha256(asked.encode(errors="backslashreplace")).hexdigest()


class Older:
    """An index that was built before; one that is not there, or is broken, holds nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = manifest.read(folder)
        self.manifest = found if found and manifest.complete(folder, found) else None

    def chunks(self, block: Index, document: Document) -> list[Chunk] | None:
        """A document's passages, where it was cut the same way; else null."""
        before = self.manifest
        same = before and before.chunking == manifest.Chunking(
            words=block.chunk_words, overlap=block.overlap_words
        )
        counted = before.documents.get(document.source) if before and same else None
        if counted is None or counted.sha256 != document.sha256 or not counted.chunks:
            return None
        rows = self._query(
            "SELECT id, source, page, heading, text FROM chunks WHERE source = ? ORDER BY number",
            (document.source,),
        )
        return [Chunk(*row) for row in rows] if len(rows) == counted.chunks else None

    def vectors(self, names: Iterable[str]) -> dict[str, Vectors]:
        """Those of these embeddings that it has."""
        import numpy
        from usearch.index import Index as Stored

        numbers: dict[str, int] = dict(self._query("SELECT embedded, number FROM chunks"))
        wanted = {one: numbers[one] for one in names if one in numbers}
        if not wanted:
            return {}
        try:
            stored = Stored.restore(str(self._folder / manifest.VECTORS), view=True)
            found = stored.get(
                numpy.array(list(wanted.values()), dtype=numpy.uint64), numpy.float16
            )
        except (RuntimeError, ValueError, TypeError):
            return {}
        pairs = zip(wanted, found, strict=True)
        return {one: numpy.array(vector) for one, vector in pairs if vector is not None}

    def _query(self, text: str, values: tuple[str, ...] = ()) -> list[Any]:
        if self.manifest is None:
            return []
        address = f"{(self._folder / manifest.DATABASE).resolve().as_uri()}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(address, uri=True)) as database:
                return database.execute(text, values).fetchall()
        except sqlite3.Error:
            return []


class Journal:
    """What a build has paid for, on disk batch by batch: one that was killed goes on from there."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / JOURNAL)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS vectors (name TEXT PRIMARY KEY, vector BLOB NOT NULL)"
        )

    def keep(self, names: Sequence[str], vectors: Vectors) -> None:
        """Put a batch on disk; raises sqlite3.Error where that fails."""
        rows = [(one, vector.tobytes()) for one, vector in zip(names, vectors, strict=True)]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def vectors(self, names: Iterable[str]) -> dict[str, Vectors]:
        """Those of these embeddings that it has."""
        import numpy

        wanted = set(names)
        rows = self._database.execute("SELECT name, vector FROM vectors")
        return {
            one: numpy.frombuffer(vector, dtype=numpy.float16)
            for one, vector in rows
            if one in wanted
        }

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
