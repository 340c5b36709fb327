"""Connections in a flow's code: which parameters take one, and what is read of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from llmops import code

CUSTOM = "CustomConnection"
# What every connection has.
OWN = {"name", "type", "configs", "secrets", "to_dict", "items", "keys", "values", "get"}


def hinted(tree: ast.Module) -> dict[str, list[str]]:
    """Parameters of a module's functions and classes whose hint is a connection."""
    classes = [n for n in code.top_level(tree).values() if isinstance(n, ast.ClassDef)]
    own = [n.name for n in classes if any(types_of_hint(ast.unparse(b)) for b in n.bases)]
    found = {}
    for node in ast.walk(tree):
        for given in code.parameters(node).values() if isinstance(node, code.Function) else ():
            if types := types_of_hint(given.hint) or [n for n in own if n in given.hint]:
                found[given.name] = types
    return found


def types_of_hint(hint: str) -> list[str]:
    """The connection classes in a type hint: `Union[AzureOpenAIConnection, OpenAIConnection]`."""
    return re.findall(r"\b(\w+Connection)\b", hint)


def properties(tree: ast.Module, name: str, types: list[str]) -> Iterator[tuple[str, bool]]:
    """What the code reads of a custom connection, or its class says that it has.

    `name` is the parameter that takes it. The second part says whether it is told to be a secret.
    """
    for kind in types:
        node = code.top_level(tree).get(kind)
        for field in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, "Secret" in ast.unparse(field.annotation)
    if CUSTOM in types:
        found = (_property(part, name) for part in ast.walk(tree))
        yield from (read for read in found if read and read[0] not in OWN)


def _property(node: ast.AST, name: str) -> tuple[str, bool] | None:
    """A property that an expression reads of `name`, and whether it is told to be a secret."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        getter = node.func.attr == "get"
        return _within(node.func.value, node.args[0], name) if getter else None
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
        return _within(node.comparators[0], node.left, name)
    if isinstance(node, ast.Subscript):
        return _within(node.value, node.slice, name)
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (name, f"self.{name}"):
        return node.attr, False
    return None


def _within(holder: ast.expr, key: ast.expr, name: str) -> tuple[str, bool] | None:
    base, _, part = ast.unparse(holder).removeprefix("self.").partition(".")
    text = code.literal(key)
    if base != name or part not in ("", "configs", "secrets") or not isinstance(text, str):
        return None
    return text, part == "secrets"
