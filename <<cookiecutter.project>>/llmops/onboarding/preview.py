"""What an import would do, as text for a person."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tabulate import tabulate

from llmops.onboarding.proposal import Document, Proposal
from llmops.onboarding.questions import existing
from llmops.onboarding.writing import Planned

MANY = 40
WORDS = {"new": "new", "same": "same", "add": "adds to", "replace": "REPLACES"}


def text(proposal: Proposal, planned: list[Planned]) -> str:
    """Files, mappings, what is unclear, what is left behind and why."""
    blocks = [
        f"{proposal.name}: {proposal.kind}",
        _table("files", _files(planned)),
        _table("mappings", [row for d in _experiments(proposal) for row in _mappings(*d)]),
        _table("packages to install", [[package] for package in proposal.packages]),
        _table("to decide", [[question.words] for question in proposal.questions]),
        _table("not copied", [[os.path.relpath(one.path), one.reason] for one in proposal.left]),
        _table("to know", [[note] for note in proposal.notes]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(title: str, rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = tabulate(rows, tablefmt="plain", disable_numparse=True).splitlines()
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


def _files(planned: list[Planned]) -> list[list[str]]:
    """A line a file; of many, a line a folder, but for those that are replaced."""
    alone = [file for file in planned if len(planned) <= MANY or file.state == "replace"]
    rows = [[WORDS[file.state], file.target.as_posix()] for file in alone]
    rest = Counter((f.state, Path(*f.target.parts[:2])) for f in planned if f not in alone)
    rows += [
        [WORDS[s], f"{p.as_posix()} ({n} files)"] for (s, p), n in sorted(rest.items(), key=str)
    ]
    return sorted(rows, key=lambda row: row[1])


def _experiments(proposal: Proposal) -> Iterator[tuple[Path, Document]]:
    """Every experiment file that comes in, also those that are copied as they are."""
    for copied in proposal.copies:
        if fnmatch(copied.target.as_posix(), "experiment*.yaml"):
            yield copied.target, existing(copied.source) or {}
    yield from proposal.documents.items()


def _mappings(path: Path, document: Document) -> Iterator[list[str]]:
    for dataset in document.get("datasets") or ():
        yield from _rows(f"{path}: {dataset['name']}", dataset)
    for evaluator in document.get("evaluators") or ():
        for dataset in evaluator.get("datasets") or ():
            yield from _rows(f"{path}: {evaluator['name']} over {dataset['name']}", dataset)


def _rows(where: str, dataset: dict[str, Any]) -> Iterator[list[str]]:
    for name, value in (dataset.get("mappings") or {}).items():
        yield [where, name, "<-", str(value)]
