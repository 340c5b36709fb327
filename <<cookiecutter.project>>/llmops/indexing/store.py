"""The files of an index, as `search.py` of a flow reads them.

chunks.sqlite     chunks: a row a passage, `number` counts from 0; words: its keyword index;
                  frequent: how many passages hold a word that stands in many
vectors.usearch   an HNSW graph over the vectors, cosine, 16 bits; keys are the numbers
index.json        the manifest, written last
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from llmops.errors import UserError
from llmops.indexing import manifest
from llmops.indexing.chunks import Chunk, Vectors

FREQUENT = 500
"""A word in more passages than this is counted."""
EXACT = 20_000
"""Up to so many passages `search.py` compares all vectors and follows no graph."""
GRAPH, NO_GRAPH = (16, 64), (4, 8)
"""HNSW: links of a node, and candidates looked at when one is put in or sought."""
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE chunks (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, page INTEGER,
  heading TEXT NOT NULL, text TEXT NOT NULL, embedded TEXT NOT NULL
);
CREATE TABLE frequent (word TEXT PRIMARY KEY, chunks INTEGER NOT NULL) WITHOUT ROWID;
"""
WORDS = """
CREATE VIRTUAL TABLE words USING fts5(
  heading, text, content='chunks', content_rowid='number',
  tokenize='porter unicode61 remove_diacritics 2'
)
"""


def check() -> None:
    """Raise UserError where Python's SQLite has no full-text search."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"This Python's SQLite ({sqlite3.sqlite_version}) has no full-text search (FTS5). "
                "Use a Python from python.org, uv or your system, which have it."
            ) from error


def write(
    folder: Path,
    chunks: Sequence[Chunk],
    names: Sequence[str],
    vectors: Vectors,
) -> None:
    """Write passages and vectors into an empty folder, without the manifest.

    `names` are those of the passages' embeddings, see `kept.name`; `vectors` is (passages,
    dimensions).

    Raises:
        OSError, sqlite3.Error, RuntimeError: the disk is full or cannot be written to.
    """
    with closing(sqlite3.connect(folder / manifest.DATABASE)) as database:
        database.executescript(SCHEMA)
        database.execute(WORDS)
        with database:
            database.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(chunks, names)
            )
            database.execute("INSERT INTO words(words) VALUES ('rebuild')")
            database.execute("INSERT INTO words(words) VALUES ('optimize')")
            database.executemany("INSERT INTO frequent VALUES (?, ?)", frequent(chunks).items())
    _write_vectors(folder / manifest.VECTORS, vectors)


def frequent(chunks: Sequence[Chunk]) -> dict[str, int]:
    """How many passages hold a word, of words in more than FREQUENT."""
    if len(chunks) <= FREQUENT:
        return {}
    counts: Counter[str] = Counter()
    for chunk in chunks:
        counts.update(set(re.findall(r"\w+", chunk.embedded.lower())))
    return {word: count for word, count in sorted(counts.items()) if count > FREQUENT}


def _rows(chunks: Sequence[Chunk], names: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for number, (chunk, name) in enumerate(zip(chunks, names, strict=True)):
        yield number, chunk.id, chunk.source, chunk.page, chunk.heading, chunk.text, name


def _write_vectors(path: Path, vectors: Vectors) -> None:
    import numpy
    from usearch.index import Index

    links, candidates = NO_GRAPH if len(vectors) <= EXACT else GRAPH
    index = Index(
        ndim=vectors.shape[1],
        metric="cos",
        dtype="f16",
        connectivity=links,
        expansion_add=candidates,
        expansion_search=candidates,
    )
    index.add(numpy.arange(len(vectors), dtype=numpy.uint64), vectors)
    index.save(str(path))
    if path.stat().st_size < vectors.nbytes:
        raise OSError("the vectors were not written whole")
