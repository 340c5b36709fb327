"""From a proposal to files: which are new, which differ from what is there, and writing them."""

from __future__ import annotations

import filecmp
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.config import SCHEMA
from llmops.files import copy_atomically, write_atomically
from llmops.onboarding.project import PROJECT, extended
from llmops.onboarding.proposal import Document, Proposal
from llmops.onboarding.questions import existing

SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA}\n"

State = Literal["new", "same", "add", "replace"]


@dataclass(frozen=True)
class Planned:
    """A file of the repo as it will be; `add`: more comes to what is there, and nothing goes."""

    target: Path
    content: str | Path
    state: State


def plan(proposal: Proposal, root: Path) -> list[Planned]:
    """Every file that the import writes, with how it compares to what is there.

    Raises:
        UserError: pyproject.toml is not as expected.
    """
    return [
        *(_copy(copied.target, copied.source, root) for copied in proposal.copies),
        *(_text(path, text, root) for path, text in proposal.texts.items()),
        *(_document(path, document, root) for path, document in proposal.documents.items()),
        *(_lines(path, lines, root) for path, lines in proposal.lines.items()),
        *_project(proposal, root),
    ]


def write(planned: Iterable[Planned], root: Path = Path()) -> None:
    """Write what is not there already, each file whole; raises UserError where one cannot be."""
    for file in planned:
        if file.state != "same":
            _place(file.content, root / file.target)


def unused(before: Document | None, now: Document | None) -> list[str]:
    """The flows and files of data that the experiment before named, and the new one does not."""
    return sorted(_named(before or {}) - _named(now)) if now else []


def render(document: Document, before: str = "") -> str:
    """An experiment file as text; comments of the text `before` stay where its blocks do."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    whole: Any = yaml.load(before) if before else {}
    for key, value in document.items():
        there = whole.get(key)
        if isinstance(there, list) and isinstance(value, list):
            there.extend(value[len(there) :])
        elif there is None:
            whole[key] = value
    stream = io.StringIO()
    if whole:
        yaml.dump(whole, stream)
    return stream.getvalue() if before else SCHEMA_LINE + stream.getvalue()


def _copy(target: Path, source: Path, root: Path) -> Planned:
    if not (root / target).exists():
        return Planned(target, source, "new")
    equal = (root / target).is_file() and filecmp.cmp(source, root / target, shallow=False)
    return Planned(target, source, "same" if equal else "replace")


def _text(path: Path, text: str, root: Path) -> Planned:
    there = _read(root / path)
    state: State = "replace" if there is not None else "new"
    return Planned(path, text, "same" if there == text else state)


def _document(path: Path, document: Document, root: Path) -> Planned:
    """Compared by what it says: a comment, or the order of keys, is no difference."""
    there = existing(root / path)
    if there is None:
        return _text(path, render(document), root)
    if there == document:
        return Planned(path, "", "same")
    if _extends(document, there):
        return Planned(path, render(document, _read(root / path) or ""), "add")
    return Planned(path, render(document), "replace")


def _extends(document: Document, there: Document) -> bool:
    """Whether all that is there stays: blocks or items of a list are added, and that is all."""

    def kept(key: str) -> bool:
        old, new = there[key], document.get(key)
        grown = isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old
        return old == new or grown

    return bool(there) and all(kept(key) for key in there)


def _lines(path: Path, lines: list[str], root: Path) -> Planned:
    there = _read(root / path)
    more = [line for line in lines if line not in (there or "").splitlines()]
    if there is not None and not more:
        return Planned(path, "", "same")
    begun = f"{there.rstrip()}\n\n" if there and there.strip() else ""
    return Planned(path, begun + "\n".join(more) + "\n", "new" if there is None else "add")


def _project(proposal: Proposal, root: Path) -> list[Planned]:
    """pyproject.toml with the packages that come, and without a say in the style of the code."""
    code = {copied.target for copied in proposal.copies if copied.target.suffix == ".py"}
    folders = {Path(*path.parts[:2]).as_posix() for path in code}
    if not (folders or proposal.packages):
        return []
    there = _read(root / PROJECT) or ""
    text = extended(there, proposal.packages, folders)
    return [Planned(PROJECT, text, "same" if text == there else "add")]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""  # something else is there, which differs


def _place(content: str | Path, path: Path) -> None:
    if isinstance(content, Path):
        copy_atomically(content, path)
        return
    with write_atomically(path) as file:
        file.write(content)


def _named(document: Document) -> set[str]:
    """The flows and the files of data that an experiment names."""
    blocks: list[Any] = [document, *(document.get("datasets") or ())]
    for evaluator in document.get("evaluators") or ():
        blocks += [evaluator, *(evaluator.get("datasets") or ())]
    return {str(b[key]) for b in blocks for key in ("flow", "source") if b.get(key)}
