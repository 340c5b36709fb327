"""An index built from its documents; what is unchanged is neither read nor embedded again."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmops.answers import Answers
from llmops.config import Index, Limits
from llmops.errors import UserError
from llmops.files import locked, unwritable
from llmops.indexing import chunks, documents, embedding, kept, manifest, reading, service, store
from llmops.indexing.chunks import Chunk, Vectors
from llmops.indexing.documents import Document
from llmops.indexing.kept import Journal, Older
from llmops.indexing.manifest import Counted, Embedding, Manifest, Origin, Place
from llmops.running import stopping

ORIGINS: Mapping[str, Origin] = {"live": "live", "record": "live", "replay": "recorded"}
NEW, OLD, SERVED = "new", "old", "served"
PAUSE_S = 0.1


@dataclass(frozen=True)
class Built:
    """An index as it is now; `embedded` of its chunks were embedded for it just now."""

    manifest: Manifest
    embedded: int
    folder: Path

    @property
    def line(self) -> str:
        """What was done, for a person."""
        made = self.manifest
        new = f"{self.embedded} embedded by {made.embedding.model}" if self.embedded else ""
        rest = made.chunks - self.embedded
        how = ", ".join(filter(None, [new, f"{rest} unchanged" if rest else ""]))
        where = f"search index '{made.search.index}'" if made.search else str(self.folder)
        documents, chunks = _count(len(made.documents), "document"), _count(made.chunks, "chunk")
        return f"index: {documents}, {chunks} ({how}) in {where}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class _Cut:
    """Documents and their passages; `names` are those of the passages' embeddings."""

    documents: list[Document]
    chunks: list[Chunk]
    names: list[str]

    @property
    def texts(self) -> dict[str, str]:
        """What is embedded, by name; passages with the same text share one."""
        return {name: one.embedded for name, one in zip(self.names, self.chunks, strict=True)}


def build(
    place: Place, answers: Answers, limits: Limits, older: Sequence[Path] = (), *, fresh: bool
) -> Built:
    """Build the index of a use case and put it in the place of the one before.

    `older` are folders of other indexes whose vectors may be used. `fresh` reads and embeds all
    again. Two builds wait for each other. One that is killed leaves the index as it was, and what
    it has embedded to the next one.

    Raises:
        UserError: a document cannot be read, the model does not embed, or the disk cannot be
            written to; nothing has changed then.
    """
    manifest.check_replaceable(place.folder)
    store.check()
    with _alone(place), _writing(place):
        _tidy(place)
        service.target(place)  # a service that nobody has named is told before anything is paid
        origin = ORIGINS[answers.mode]
        sources = [Older(folder) for folder in (place.folder, place.workshop / SERVED, *older)]
        found = _cut(place, origin, [] if fresh else sources)
        with closing(Journal(place.workshop)) as journal:
            had = {} if fresh else _had(place, found, sources, journal)
            missing = {name: text for name, text in found.texts.items() if name not in had}
            new = _embed(place.block, answers, limits, missing, journal)
        _check_one_size(had | new, place)
        made = _put(place, found, had | new, origin)
        (place.workshop / kept.JOURNAL).unlink()
    return Built(made, sum(name in new for name in found.names), place.folder)


def _cut(place: Place, origin: Origin, older: Sequence[Older]) -> _Cut:
    block, problems = place.block, []
    files = documents.found(place.documents)
    found: list[Chunk] = []
    for document in files:
        if document.same_as:
            continue
        before = next(filter(None, (one.chunks(block, document) for one in older)), None)
        try:
            found += before or chunks.cut(
                document.source,
                reading.read(document.path),
                block.chunk_words,
                block.overlap_words,
            )
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return _Cut(files, found, [kept.name(block, origin, one.embedded) for one in found])


def _had(place: Place, found: _Cut, older: Sequence[Older], journal: Journal) -> dict[str, Vectors]:
    """The vectors that need not be asked for."""
    had = journal.vectors(found.names)
    for index in older:
        had |= index.vectors(name for name in found.names if name not in had)
    return had | service.known(place, [name for name in found.texts if name not in had])


def _embed(
    block: Index, answers: Answers, limits: Limits, texts: Mapping[str, str], journal: Journal
) -> dict[str, Vectors]:
    """Ask for the vectors of these texts by name."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)

    def keep(batch: Sequence[str], vectors: Vectors) -> None:
        journal.keep([names[text][0] for text in batch], vectors)

    if texts:
        try:
            answers.open()
            link = answers.connections()[block.connection]
            stopping.run(embedding.embed(link, block, limits, list(names), keep))
        except embedding.NoRecordingError as error:
            remedy = answers.no_recording(1).partition("). ")[2]
            raise UserError(f"{error} {remedy}") from None
        finally:
            answers.close()
    return journal.vectors(texts)


def _check_one_size(vectors: Mapping[str, Vectors], place: Place) -> None:
    sizes = sorted({len(vector) for vector in vectors.values()})
    if len(sizes) > 1:
        raise UserError(
            f"model '{place.block.model}': its vectors have {' and '.join(map(str, sizes))} "
            "dimensions: another model answers under this name now. Run `make index FRESH=1`."
        )


def _put(place: Place, found: _Cut, vectors: Mapping[str, Vectors], origin: Origin) -> Manifest:
    """Write the index beside, and put it in its place as a whole."""
    import numpy

    every = numpy.stack([vectors[name] for name in found.names])
    made = _manifest(place, found, every.shape[1], origin)
    new, old = place.workshop / NEW, place.workshop / OLD
    new.mkdir()
    store.write(new, found.chunks, found.names, every)
    if made.search:
        service.upload(made, found.chunks, every.astype(numpy.float32), found.names)
    (new / manifest.FILE).write_text(manifest.dump(made), encoding="utf-8")
    if made.search:
        new = _only_manifest(place, new)
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    if place.folder.exists():
        place.folder.rename(old)
    new.rename(place.folder)
    shutil.rmtree(old, ignore_errors=True)
    return made


def _only_manifest(place: Place, new: Path) -> Path:
    """Keep the files of a service's index for the next build; returns a folder for the flow."""
    served = place.workshop / SERVED
    shutil.rmtree(served, ignore_errors=True)
    text = (new / manifest.FILE).read_bytes()
    new.rename(served)
    new.mkdir()
    (new / manifest.FILE).write_bytes(text)
    return new


def _manifest(place: Place, found: _Cut, dimensions: int, origin: Origin) -> Manifest:
    block = place.block
    counts = dict.fromkeys((one.source for one in found.documents), 0)
    for chunk in found.chunks:
        counts[chunk.source] += 1
    return Manifest(
        version=manifest.version(block, origin, found.documents),
        documents={
            one.source: Counted(sha256=one.sha256, chunks=counts[one.source])
            for one in found.documents
        },
        chunks=len(found.chunks),
        embedding=Embedding(
            model=block.model,
            dimensions=dimensions,
            chosen=block.dimensions is not None,
            origin=origin,
        ),
        chunking=manifest.Chunking(words=block.chunk_words, overlap=block.overlap_words),
        search=service.target(place),
    )


def _alone(place: Place) -> AbstractContextManager[None]:
    """One build at a time; another one waits."""
    told: list[str] = []

    def wait() -> bool:
        if not told:
            told.append("Another task builds the index; waiting ...")
            print(told[0], file=sys.stderr, flush=True)
        time.sleep(PAUSE_S)
        return True

    return locked(place.workshop / ".lock", "", wait)


@contextmanager
def _writing(place: Place) -> Iterator[None]:
    """Say so where the disk is full or the folder cannot be written to, and leave nothing half."""
    try:
        yield
    except OSError as error:
        raise unwritable(Path(error.filename or place.folder), error) from error
    except (sqlite3.Error, RuntimeError) as error:
        raise UserError(
            f"{place.workshop}: the index cannot be written ({error}). Free some space, then run "
            "again."
        ) from error
    finally:
        shutil.rmtree(place.workshop / NEW, ignore_errors=True)


def _tidy(place: Place) -> None:
    """Put right what a build that was killed left behind."""
    old = place.workshop / OLD
    shutil.rmtree(place.workshop / NEW, ignore_errors=True)
    if old.exists() and not place.folder.exists():
        old.rename(place.folder)
    shutil.rmtree(old, ignore_errors=True)
