"""What a flow's Python code says of itself, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef

TYPES = {
    "str": "string",
    "int": "int",
    "float": "double",
    "bool": "bool",
    "list": "list",
    "tuple": "list",
    "sequence": "list",
    "iterable": "list",
    "dict": "object",
    "mapping": "object",
    "image": "image",
    "pfimage": "image",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function: its hint as it is written, "" without one."""

    name: str
    hint: str
    required: bool
    default: Any = None


@lru_cache(maxsize=512)
def parse(path: Path) -> ast.Module | None:
    """The module in a file, null where there is none or it is not Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8-sig"), path.name)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def module_file(folder: Path, module: str) -> Path:
    """The file of `package.module` below a folder."""
    path = folder.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def top_level(tree: ast.Module) -> dict[str, Function | ast.ClassDef]:
    """The functions and classes of a module by name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


def method(node: ast.ClassDef, name: str) -> Function | None:
    """A method that stands in the class itself."""
    found = [n for n in node.body if isinstance(n, Function) and n.name == name]
    return found[-1] if found else None


def called(tree: ast.Module, name: str) -> Function | None:
    """The function of that name, or the `__call__` of the class."""
    node = top_level(tree).get(name)
    return method(node, "__call__") if isinstance(node, ast.ClassDef) else node


def arguments(function: Function) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """The named parameters of a function in their order, each with its default, null without."""
    plain = [*function.args.posonlyargs, *function.args.args]
    absent: list[ast.expr | None] = [None] * (len(plain) - len(function.args.defaults))
    yield from zip(plain, [*absent, *function.args.defaults], strict=True)
    yield from zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)


def parameters(function: Function) -> dict[str, Parameter]:
    """The named parameters of a function without self."""
    return {
        arg.arg: Parameter(arg.arg, _text(arg.annotation), default is None, literal(default))
        for arg, default in arguments(function)
        if arg.arg not in ("self", "cls")
    }


def literal(node: ast.expr | None) -> Any:
    """The value that an expression spells out, null where it has to be computed."""
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def type_of_hint(hint: str) -> str:
    """prompt flow's name for a type hint, "" where it has none: `Optional[str]` is a string."""
    words = hint.replace("typing.", "").replace(" ", "")
    for part in words.removeprefix("Optional[").split("|"):
        if part != "None":
            head = part.split("[")[0].rstrip("]").rpartition(".")[2].lower()
            return TYPES.get(head, "")
    return ""


def reachable(folder: Path, starts: Iterable[Path]) -> dict[Path, ast.Module]:
    """The modules that run when these run: they and what they import of the folder."""
    found: dict[Path, ast.Module] = {}
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        tree = parse(path) if path not in found else None
        if tree is not None:
            found[path] = tree
            waiting += _imported(folder, path, tree)
    return found


def _imported(folder: Path, path: Path, tree: ast.Module) -> Iterator[Path]:
    for base, name in imports(tree):
        for place in {folder, path.parent}:
            for module in filter(None, (f"{base}.{name}".strip("."), base)):
                file = module_file(place, module)
                if file.is_file():
                    yield file


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each import as (module, name); `import x` and `from . import x` have one of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def imported(files: Iterable[Path]) -> set[str]:
    """The modules that the Python files among these import, wherever they do; `x` of `x.y` too."""
    trees = filter(None, (parse(path) for path in files if path.suffix == ".py"))
    pairs = {pair for tree in trees for pair in imports(tree)}
    names = {".".join(filter(None, pair)) for pair in pairs} | {module for module, _ in pairs}
    return names | {name.partition(".")[0] for name in names}


def returned(tree: ast.Module, function: Function) -> tuple[str, ...] | None:
    """The names of a function's outputs, null where they do not stand in its code.

    They are the fields of the class that its hint names or the keys of each `return {…}`.
    """
    node = top_level(tree).get(_text(function.returns).strip("'\""))
    if isinstance(node, ast.ClassDef):
        fields = [n.target.id for n in node.body if _is_field(n)]  # type: ignore[attr-defined]
        return tuple(fields) or None
    own = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value]
    dicts = [value for value in own if isinstance(value, ast.Dict)]
    if not dicts or len(dicts) < len(own):
        return None
    keys = [literal(key) for value in dicts for key in value.keys]
    return tuple(dict.fromkeys(map(str, keys))) if None not in keys else None


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def without_main(tree: ast.Module) -> ast.Module:
    """The module without its `if __name__ == "__main__":`, which a run never enters."""
    kept = [n for n in tree.body if not (isinstance(n, ast.If) and "__name__" in _text(n.test))]
    return ast.Module(kept, [])


def _text(node: ast.expr | None) -> str:
    return ast.unparse(node) if node is not None else ""
