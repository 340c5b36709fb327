"""What lies beside the new module: the flow's own files, the helpers, what is to be filled in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmops.ejecting.names import module as module_of
from llmops.ejecting.sources import UNKNOWN
from llmops.ejecting.writer import HELPERS, Writer

PACKAGE = "llmops.ejecting.helpers."


@dataclass(frozen=True)
class Ejected:
    """A new flow: its files by their names below the folder, as text or as the file to copy.

    `written` are those that were made for it; the others are the flow's own. `left` says what is to
    be filled in, `notes` what is to know. `entry` is `/file.py:function` where it is not flow.py's
    `run`. `variants` are the values of the parameters that choose among variants.
    """

    files: Mapping[str, str | Path]
    written: frozenset[str]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    entry: str = ""


def beside(writer: Writer, text: str) -> Ejected:
    """The files of the folder; `text` is flow.py's."""
    left, unknown = list(writer.module.left), {}
    found: dict[str, str | Path] = {}
    for name, path in writer.source.files().items():
        converted = writer.converted.get(name)
        where = f"{module_of(name).replace('.', '/')}.py" if name in writer.tools else name
        if where != name:
            left += _renamed(writer, name, where)
        found[where] = converted.text if converted else path
        for local, full in (converted.unknown if converted else {}).items():
            unknown[local] = full
            short = full.removeprefix("promptflow.")
            left.append(f"{local} of to_fill.py: {where} imports it (it was {short} there)")
    helpers = {h for c in writer.converted.values() for h in c.helpers} | writer.module.helpers
    made = {"flow.py": text, **helper_files(helpers - {UNKNOWN}, writer.renamed)}
    if unknown:
        made[f"{UNKNOWN}.py"] = to_fill(unknown)
    variants = {writer.names.variants[n]: tuple(v) for n, v in writer.graph.variants.items()}
    return Ejected(
        {**found, **made},
        frozenset(made),
        variants,
        tuple(left),
        (*writer.graph.notes, *writer.module.notes),
    )


def _renamed(writer: Writer, name: str, where: str) -> list[str]:
    """A file with a new name: who imports it under the old one has to be told."""
    old = name.removesuffix(".py").replace("/", ".")
    users = [n for n, path in writer.source.files().items() if n.endswith(".py") and n != name]
    pattern = re.compile(rf"^\s*(from|import) {re.escape(old)}\b", re.MULTILINE)
    texts = {n: writer.source.files()[n].read_text("utf-8", "replace") for n in users}
    return [f"{n} imports {old}, which is {where} now" for n in users if pattern.search(texts[n])]


def helper_files(names: Iterable[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """The helpers, and those that they import, with imports as beside the flow."""
    found: dict[str, str] = {}
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        text = (HELPERS / f"{name}.py").read_text(encoding="utf-8")
        needed = re.findall(rf"from {re.escape(PACKAGE)}(\w+) import", text)
        for other in needed:
            text = text.replace(f"from {PACKAGE}{other} ", f"from {renamed.get(other, other)} ")
        found[f"{renamed.get(name, name)}.py"] = text
        waiting += [other for other in needed if f"{renamed.get(other, other)}.py" not in found]
    return found


def to_fill(unknown: Mapping[str, str]) -> str:
    """A module of what prompt flow had and nothing stands for; each raises until then."""
    parts = ['"""To fill in: what prompt flow had and nothing else stands for."""', ""]
    parts += ["from __future__ import annotations", "", "from typing import Any", ""]
    for name, full in sorted(unknown.items()):
        short = full.removeprefix("promptflow.")
        raised = f'raise NotImplementedError("{name}: fill it in in {UNKNOWN}.py")'
        told = f'"""To fill in: it was prompt flow\'s {short}."""'
        taken = "*given: Any, **named: Any"
        if name[:1].isupper():
            parts += [f"class {name}:", f"    {told}", f"    def __init__(self, {taken}) -> None:"]
            parts += [f"        {raised}", ""]
        else:
            parts += [f"def {name}({taken}) -> Any:", f"    {told}", f"    {raised}", ""]
    return "\n".join(parts)
