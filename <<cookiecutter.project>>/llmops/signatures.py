"""What a Python function or class takes, read from its source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmops import code

DEEPEST = 8
"""So many imports, base classes or other names are followed."""

Definition = code.Function | ast.ClassDef


@dataclass(frozen=True)
class Signature:
    """Inputs of a call and, of a class, arguments of its making: which of them are required.

    `more_inputs` and `more_init` say whether any other is taken too (`**kwargs`).
    """

    inputs: dict[str, bool] = field(default_factory=dict)
    more_inputs: bool = False
    init: dict[str, bool] = field(default_factory=dict)
    more_init: bool = False


UNKNOWN = Signature(more_inputs=True, more_init=True)
"""Of what only running the code would tell."""


def read(folders: Sequence[Path], module: str, name: str) -> Signature:
    """The signature of `module:name`; `folders` are where its modules may lie, the first one first.

    Raises:
        ValueError: the module defines no such function, or the class cannot be called.
        OSError, SyntaxError: the module's file is not there or cannot be read.
    """
    found = _find(_Module(module, folders), name.partition(".")[0], DEEPEST)
    if found is None or "." in name:
        return UNKNOWN
    if isinstance(found.node, ast.ClassDef):
        return _of_class(found)
    return Signature(*_arguments(found.node))


class _Module:
    """A module of the flow's own, parsed."""

    def __init__(self, name: str, folders: Sequence[Path]) -> None:
        self.name, self.folders = name, folders
        path = Path(*name.split("."))
        places = (f / p for f in folders for p in (path.with_suffix(".py"), path / "__init__.py"))
        self.path = next((p for p in places if p.is_file()), folders[0] / path.with_suffix(".py"))
        text = self.path.read_text(encoding="utf-8-sig")
        self.body = list(_flat(ast.parse(text, self.path.name).body))

    def imported(self, node: ast.ImportFrom) -> _Module | None:
        """The module that a name is imported from; null where it is no file of the flow's."""
        parts = self.name.split(".")
        # In a package's own file the first dot is the package itself.
        up = node.level - (self.path.name == "__init__.py")
        package = parts[: len(parts) - up] if node.level else []
        beside = self.path.parents[node.level - 1] if node.level else self.path.parent
        name = ".".join([*package, *([node.module] if node.module else [])])
        try:
            return _Module(name if package or not node.level else node.module or "", self.folders)
        except (OSError, ValueError):
            pass
        try:
            return _Module(node.module or "", [beside])
        except (OSError, ValueError):
            return None


@dataclass(frozen=True)
class _Found:
    """A definition, where it stands, and whether the name means an object of the class."""

    node: Definition
    module: _Module
    made: bool = False


def _flat(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those within `if`, `try` and `with` included."""
    for node in body:
        yield node
        for block in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _flat(getattr(node, block, []))


def _find(module: _Module, name: str, deep: int) -> _Found | None:
    """The definition behind a name of a module; null where only running the code would tell."""
    unknown = deep == 0
    for node in reversed(module.body):
        if isinstance(node, Definition) and node.name == name:
            return _Found(node, module)
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            return _assigned(module, node.value, deep - 1)
        if isinstance(node, ast.ImportFrom | ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name) == name and isinstance(node, ast.ImportFrom):
                    other = module.imported(node) if deep else None
                    return _find(other, alias.name, deep - 1) if other else None
                unknown |= alias.name == "*"
    if unknown:
        return None
    known = sorted(node.name for node in module.body if isinstance(node, Definition))
    raise ValueError(f"no function '{name}' (found {', '.join(known) or 'none'})")


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _assigned(module: _Module, value: ast.expr | None, deep: int) -> _Found | None:
    """What a name is set to: another name, or an object of a class."""
    if deep > 0 and isinstance(value, ast.Name):
        try:
            return _find(module, value.id, deep)
        except ValueError:
            return None
    if deep > 0 and isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        try:
            return _find(_Module(value.value.id, module.folders), value.attr, deep)
        except (OSError, ValueError):
            return None
    if deep > 0 and isinstance(value, ast.Call):
        found = _assigned(module, value.func, deep - 1)
        if found and isinstance(found.node, ast.ClassDef) and not found.made:
            return _Found(found.node, found.module, made=True)
    return None


def _of_class(found: _Found) -> Signature:
    """Of an object only the call is left; a class without a call of its own has a base's."""
    call, known = _method(found, "__call__")
    if call is None and known:
        raise ValueError(f"the class '{found.node.name}' has no __call__")
    inputs = _arguments(call) if call else ({}, True)
    if found.made:
        return Signature(*inputs)
    init, known = _method(found, "__init__")
    if init is not None:
        return Signature(*inputs, *_arguments(init))
    fields = _fields(found.node)
    return Signature(*inputs, fields, not known)


def _method(found: _Found, name: str, deep: int = DEEPEST) -> tuple[code.Function | None, bool]:
    """A class's method or that of a base, and whether all that it could come from is known."""
    node, known = found.node, True
    for part in node.body:
        if isinstance(part, code.Function) and part.name == name:
            return part, True
    for base in node.bases if isinstance(node, ast.ClassDef) else ():
        if isinstance(base, ast.Name) and base.id in ("object", "ABC", "Protocol"):
            continue
        try:
            other = _find(found.module, base.id, deep) if isinstance(base, ast.Name) else None
        except ValueError:
            other = None
        if other is None or deep == 0:
            known = False
            continue
        method, certain = _method(other, name, deep - 1)
        if method is not None:
            return method, True
        known &= certain
    return None, known


def _fields(node: Definition) -> dict[str, bool]:
    """The arguments that a dataclass takes."""
    names = {
        n.id for part in node.decorator_list for n in ast.walk(part) if isinstance(n, ast.Name)
    }
    if "dataclass" not in names:
        return {}
    return {
        part.target.id: part.value is None
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def _arguments(function: code.Function) -> tuple[dict[str, bool], bool]:
    """The arguments of a function or method: which are required, and whether it takes others."""
    required = {name: given.required for name, given in code.parameters(function).items()}
    return required, function.args.kwarg is not None
