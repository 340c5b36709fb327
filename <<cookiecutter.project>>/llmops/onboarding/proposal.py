"""What an import would do, before it does anything: files, documents, and what is unclear."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.data import UNDECIDED

Document = dict[str, Any]
"""The content of an experiment.yaml or of one of its overlays."""


@dataclass(frozen=True)
class Copied:
    """A file that is copied as it is; `target` is relative to the repo."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Left:
    """A file or folder of the source that is not copied, and why, in words."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Question:
    """A value that cannot be decided here.

    It stands in the document `file` at the keys `place`, marked as undecided until it is answered
    by one of `choices`. `words` says where it is and what it is about.
    """

    file: Path
    place: tuple[str | int, ...]
    words: str
    choices: tuple[str, ...]


@dataclass
class Proposal:
    """All that an import would do.

    `documents` are experiment files by their path in the repo, `texts` other files that are
    written, `lines` are added to a text file that may be there already unless they stand in it.
    `requirements` are the lists of packages of what is imported, `packages` those of them that this
    repo lacks. `notes` are sentences for the user that ask for nothing.
    """

    name: str
    kind: str
    copies: list[Copied] = field(default_factory=list)
    documents: dict[Path, Document] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    lines: dict[Path, list[str]] = field(default_factory=dict)
    requirements: list[Path] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def undecided(choices: tuple[str, ...]) -> str:
    """The mark of a value that is to be decided, with what it could be."""
    return f"{UNDECIDED}: one of {', '.join(choices)}>" if choices else f"{UNDECIDED}>"
