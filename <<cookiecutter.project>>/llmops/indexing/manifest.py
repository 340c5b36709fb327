"""`index.json`: what an index was built from, and where the index of a use case is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from llmops import config, summary
from llmops.config import Experiment
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.indexing.documents import Document

FILE = "index.json"
DATABASE = "chunks.sqlite"
VECTORS = "vectors.usearch"
FORMAT: Literal[1] = 1
"""What the builder writes; a change of it makes every index stale."""

Origin = Literal["live", "recorded"]


class Part(BaseModel):
    """A frozen part of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Counted(Part):
    """One document; 0 chunks where an earlier one has the same content."""

    sha256: str
    chunks: int


class Embedding(Part):
    """Who embedded: `recorded` are answers from recordings/, which need not be a model's.

    `chosen`: the model was asked for so many dimensions, which not every model lets one do.
    """

    model: str
    dimensions: int
    chosen: bool
    origin: Origin


class Chunking(Part):
    """How documents are cut, in words."""

    words: int
    overlap: int


class Search(Part):
    """The service that holds passages and vectors instead of files."""

    endpoint: str
    index: str


class Manifest(Part):
    """The document. It holds no time and no machine: the same content gives the same bytes."""

    format: Literal[1] = FORMAT
    version: str
    documents: dict[str, Counted]
    chunks: int
    embedding: Embedding
    chunking: Chunking
    search: Search | None = None

    def summary(self) -> summary.Index:
        """What the run's summary says of it."""
        return summary.Index(
            version=self.version,
            documents=len(self.documents),
            chunks=self.chunks,
            model=self.embedding.model,
            dimensions=self.embedding.dimensions,
            origin=self.embedding.origin,
            search=self.search.index if self.search else None,
        )


@dataclass(frozen=True)
class Place:
    """The index of a use case: its block of experiment.yaml, its folder, the folder it is of."""

    block: config.Index
    folder: Path
    root: Path

    @property
    def documents(self) -> Path:
        """The folder of the documents."""
        return self.root / self.block.documents

    @property
    def workshop(self) -> Path:
        """Where an index is put together, and what was paid for is kept until it is done."""
        return self.root / "runs" / "index"


def place(experiment: Experiment, flow: Flow, root: Path = Path()) -> Place | None:
    """Where the index of an experiment is; null where it has none."""
    block = experiment.index
    if block is None:
        return None
    return Place(block, root / block.folder if block.folder else flow.folder / "index", root)


def version(block: config.Index, origin: Origin, documents: Iterable[Document]) -> str:
    """The content address of an index: equal where all that decides its passages is equal.

    The address of a search service is no part of it: several may hold the same version.
    """
    decides = {
        "format": FORMAT,
        "documents": {document.source: document.sha256 for document in documents},
        "chunking": [block.chunk_words, block.overlap_words],
        "embedding": [block.model, block.dimensions, origin],
        "search": block.search.index if block.search else None,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def read(folder: Path) -> Manifest | None:
    """The manifest of the index in a folder; null where there is none of this format."""
    try:
        return Manifest.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None


def complete(folder: Path, manifest: Manifest) -> bool:
    """Whether the files that belong to the manifest are there."""
    names = () if manifest.search else (DATABASE, VECTORS)
    return all((folder / name).is_file() for name in names)


def dump(manifest: Manifest) -> str:
    """The text of index.json."""
    return json.dumps(manifest.model_dump(), indent=1, ensure_ascii=False) + "\n"


def check_replaceable(folder: Path) -> None:
    """Raise UserError where a folder holds something else than an index: it would be lost."""
    if not folder.exists():
        return
    known = {FILE, DATABASE, VECTORS}
    others = sorted(p.name for p in folder.iterdir() if p.name not in known)
    if others:
        raise UserError(
            f"{folder}: index.folder is replaced as a whole, and it holds '{others[0]}', which is "
            "no part of an index. Name a folder for the index alone."
        )
