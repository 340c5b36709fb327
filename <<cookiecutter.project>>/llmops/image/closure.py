"""The part of this library that a module needs: what it imports, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "llmops"


def files(*entries: str) -> dict[str, Path]:
    """The files of these modules and of all that they import of the library, by their names in it.

    An import within a function counts too, and so does a module that is named in a text, as in
    `python -m llmops.running.worker`. What lies beside the modules of a subpackage (a page, its
    style) comes along.
    """
    found: dict[str, Path] = {}
    waiting = [LIBRARY, *entries]
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path is None or (name := path.relative_to(ROOT).as_posix()) in found:
            continue
        found[name] = path
        waiting += [module.rpartition(".")[0], *_named(module, path)]
    return dict(sorted({**found, **_beside(found)}.items()))


def _file(module: str) -> Path | None:
    """The file of a module of the library, null where there is none."""
    place = ROOT.joinpath(*module.split("."))
    choices = (place.with_suffix(".py"), place / "__init__.py") if module else ()
    return next((path for path in choices if path.is_file()), None)


def _named(module: str, path: Path) -> Iterator[str]:
    """All that may be a module of the library among what the code imports or names."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path.name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _started(node.value)


def _started(text: str) -> Iterator[str]:
    """The module that a process is started with, if the text is its name."""
    if text.startswith(f"{LIBRARY}.") and text.isascii() and " " not in text:
        yield from (text, f"{text}.__main__")


def _beside(found: dict[str, Path]) -> dict[str, Path]:
    folders = {path.parent for path in found.values()} - {ROOT / LIBRARY}
    beside = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    kept = [path for path in beside if path.suffix not in (".py", ".pyc")]
    return {path.relative_to(ROOT).as_posix(): path for path in kept}
