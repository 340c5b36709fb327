"""The passages of the documents that fit a question, from the index that `make index` built.

The index is the folder `index/` beside this file: `index.json` says what it was built from,
`chunks.sqlite` holds the passages and their words, `vectors.usearch` their embeddings. Nothing here
needs the rest of the repo: the flow runs alone, with `pf` and in Azure too.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

INDEX = Path(__file__).parent / "index"
FORMAT = 1
MODES = ("vector", "keyword", "hybrid")
# Up to so many passages every vector is compared, so that the same question always finds the same.
EXACT = 20_000
# Reciprocal rank fusion: the constant of Cormack, Clarke and Büttcher, 2009, and how far it looks.
FUSION, DEPTH = 60, 50
# Of a question's words the rarest are looked up: those that stand in so many passages together.
LOOKED_UP, MOST_WORDS = 5_000, 100
# Scores differ in their last digits between processors; a tie must be one everywhere.
DIGITS = 5


class Passage(TypedDict):
    """A piece of a document; `page` counts from 1, `score` is the higher the better.

    The score is the cosine similarity (vector), BM25 (keyword) or the sum of 1 / (60 + rank) over
    both lists (hybrid).
    """

    id: str
    source: str
    page: int | None
    heading: str
    text: str
    score: float


class SearchError(Exception):
    """The index cannot answer; the message says what to do."""


def search(
    question: str,
    vector: Sequence[float] | None,
    *,
    mode: str,
    top_k: int,
    folder: Path = INDEX,
    model: str = "",
) -> list[Passage]:
    """The `top_k` passages that fit best, best first; fewer where the index holds fewer.

    `vector` is the question's embedding, `model` the one that made it (checked where given). Only
    `mode` keyword goes without a vector.

    Raises:
        SearchError: there is no index, it is of another model or dimension, or an unknown mode.
    """
    index = _opened(folder)
    _check(index.manifest, vector, mode, top_k, model)
    if index.manifest["search"]:
        from azure_search import search as ask

        found: list[Passage] = ask(index.manifest, question, vector, mode=mode, top_k=top_k)
        return found
    if mode == "keyword" or vector is None:
        return index.passages(index.by_words(question, top_k))
    if mode == "vector":
        return index.passages(index.by_vector(vector, top_k))
    depth = max(DEPTH, top_k)
    lists = (index.by_vector(vector, depth), index.by_words(question, depth))
    return index.passages(fuse(lists)[:top_k])


def manifest(folder: Path = INDEX) -> dict[str, Any]:
    """What the index was built from (index.json); raises SearchError where there is none."""
    return _opened(folder).manifest


def fuse(lists: Iterable[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Several ranked lists of (number of the passage, score) as one, by reciprocal rank fusion."""
    scores: dict[int, float] = {}
    for ranked in lists:
        for rank, (number, _) in enumerate(ranked, 1):
            scores[number] = scores.get(number, 0) + 1 / (FUSION + rank)
    return _ranked(scores.items())


def _check(
    manifest: dict[str, Any], vector: Sequence[float] | None, mode: str, top_k: int, model: str
) -> None:
    embedding = manifest["embedding"]
    if mode not in MODES:
        raise SearchError(f"mode: value '{mode}' (expected one of {', '.join(MODES)}).")
    if not isinstance(top_k, int) or top_k < 1:
        raise SearchError(f"top_k: value {top_k!r} (expected a whole number from 1).")
    if mode == "keyword":
        return
    if vector is None:
        raise SearchError(f"mode {mode} needs the question's embedding, but vector is null.")
    if model and model != embedding["model"]:
        raise SearchError(
            f"The index was embedded by '{embedding['model']}', the question by '{model}'. Use one "
            "model for both: change the flow, or `model` below `index:` and run `make index`."
        )
    if len(vector) != embedding["dimensions"]:
        raise SearchError(
            f"The index holds vectors of {embedding['dimensions']} dimensions "
            f"('{embedding['model']}'), the question's has {len(vector)}. Use the same model and "
            "dimensions for both, then run `make index`."
        )


class _Index:
    """An index that is open; several threads may ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        self._turn = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._vectors: Any = None
        self._matrix: Any = None

    def by_vector(self, vector: Sequence[float], count: int) -> list[tuple[int, float]]:
        """The nearest passages as (number, cosine similarity)."""
        import numpy

        with self._turn:
            vectors = self._open_vectors()
            if not len(vectors):
                return []
            wanted = numpy.asarray(vector, dtype=numpy.float32)
            if len(vectors) <= EXACT:
                return _ranked(enumerate(self._similarities(wanted)))[:count]
            # More than wanted, so that a tie at the end is broken by number, not by chance.
            found = vectors.search(wanted, min(count + 8, len(vectors)), threads=1)
            pairs = zip(found.keys.tolist(), found.distances.tolist(), strict=True)
        return _ranked((number, 1 - distance) for number, distance in pairs)[:count]

    def _similarities(self, vector: Any) -> list[float]:
        """The cosine similarity of every passage, in 32 bits, because 16 differ by processor."""
        import numpy

        if self._matrix is None:
            every = numpy.arange(len(self._vectors), dtype=numpy.uint64)
            self._matrix = _unit(self._vectors.get(every).astype(numpy.float32))
        found: list[float] = (self._matrix @ _unit(vector)).tolist()
        return found

    def by_words(self, question: str, count: int) -> list[tuple[int, float]]:
        """The passages that share words with the question as (number, BM25)."""
        with self._turn:
            database = self._open_database()
            wanted = _rarest(database, dict.fromkeys(re.findall(r"\w+", question.lower())))
            if not wanted:
                return []
            rows = database.execute(
                "SELECT rowid, bm25(words) AS score FROM words WHERE words MATCH ? "
                "ORDER BY score, rowid LIMIT ?",
                (" OR ".join(f'"{word}"' for word in wanted), count + 8),
            ).fetchall()
        return _ranked((number, -score) for number, score in rows)[:count]

    def passages(self, ranked: Sequence[tuple[int, float]]) -> list[Passage]:
        """The passages of these numbers, with their scores."""
        with self._turn:
            return [self._passage(number, score) for number, score in ranked]

    def _passage(self, number: int, score: float) -> Passage:
        row = (
            self._open_database()
            .execute(
                "SELECT id, source, page, heading, text FROM chunks WHERE number = ?", (number,)
            )
            .fetchone()
        )
        name, source, page, heading, text = row
        return Passage(id=name, source=source, page=page, heading=heading, text=text, score=score)

    def _open_database(self) -> sqlite3.Connection:
        if self._database is None:
            path = _file(self.folder, "chunks.sqlite")
            # Immutable: the folder may be read-only, and a new index is a new folder.
            address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
            self._database = sqlite3.connect(address, uri=True, check_same_thread=False)
        return self._database

    def _open_vectors(self) -> Any:
        if self._vectors is None:
            from usearch.index import Index

            # Seen in place on the disk: memory holds what is looked at.
            path = _file(self.folder, "vectors.usearch")
            self._vectors = Index.restore(str(path), view=True)
        return self._vectors


def _unit(vectors: Any) -> Any:
    """The vectors at length 1."""
    import numpy

    length = numpy.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / numpy.maximum(length, 1e-12)


def _ranked(pairs: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Best first; of equal scores the passage that comes first in the documents."""
    rounded = ((number, round(score, DIGITS)) for number, score in pairs)
    return sorted(rounded, key=lambda pair: (-pair[1], pair[0]))


def _rarest(database: sqlite3.Connection, words: Iterable[str]) -> list[str]:
    """The words without those that stand nearly everywhere, at least one."""
    counts = []
    for word in words:
        row = database.execute("SELECT chunks FROM frequent WHERE word = ?", (word,)).fetchone()
        counts.append((row[0] if row else 0, word))
    kept: list[str] = []
    total = 0
    for count, word in sorted(counts)[:MOST_WORDS]:
        total += count
        if kept and total > LOOKED_UP:
            break
        kept.append(word)
    return kept


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise SearchError(f"{path}: not found; the index is not complete. Run `make index`.")
    return path


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SearchError(f"{path}: there is no index. Run `make index`.") from None
    except (OSError, ValueError) as error:
        raise SearchError(f"{path}: cannot be read ({error}). Run `make index`.") from None
    if found.get("format") != FORMAT:
        raise SearchError(
            f"{path}: format {found.get('format')}, this flow reads {FORMAT}. Run `make index`."
        )
    return found


_opening = threading.Lock()
_open: dict[Path, tuple[tuple[int, int, int], _Index]] = {}


def _opened(folder: Path) -> _Index:
    """The index of a folder, opened once a process, and again when it was built again."""
    try:
        state = (folder / "index.json").stat()
    except OSError:
        raise SearchError(
            f"{folder / 'index.json'}: there is no index. Run `make index`."
        ) from None
    seen = (state.st_ino, state.st_mtime_ns, state.st_size)
    with _opening:
        if folder not in _open or _open[folder][0] != seen:
            _open[folder] = (seen, _Index(folder))
        return _open[folder][1]
