"""A flex flow without prompt flow: its own code, and `run` that calls it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmops import code
from llmops.ejecting import graph
from llmops.ejecting.beside import Ejected, helper_files, to_fill
from llmops.ejecting.expressions import literal
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.python import exceptions, imports
from llmops.ejecting.sources import UNKNOWN, Converted, kind, parameters
from llmops.ejecting.writer import Module, Source, convert, renamed_helpers
from llmops.errors import UserError
from llmops.flows import Flow

_ENVIRONMENT = re.compile(r"\$\{env:(\w+)\}")
_CONFIGURATIONS = ("AzureOpenAIModelConfiguration", "OpenAIModelConfiguration")


def write(source: Source) -> Ejected:
    """The files of a flex flow as a Python flow.

    The entry's own function is the flow where that is all; of a class flow.py makes the object.

    Raises:
        UserError: a file of the flow is not Python.
    """
    places = source.files()
    renamed = renamed_helpers(places)
    converted, module = convert(source, renamed), Module(renamed)
    files: dict[str, Any] = {
        name: converted[name].text if name in converted else path for name, path in places.items()
    }
    entry = _flow(module, source)
    made: dict[str, str] = {}
    environment = graph.environment(source.flow.definition)
    if module.parts:
        # The flow's own code may have a flow.py.
        name = "program.py" if "flow.py" in places else "flow.py"
        head = [
            *exceptions(module.parts),
            f'"""The flow {source.flow.folder.name}: what is called for each row."""',
            "",
        ]
        parts = [f"{part}\n\n" for part in module.parts]
        made[name] = "\n".join([*head, *imports(module.imports, environment), *parts])
        entry = "" if name == "flow.py" else f"/{name}:run"
    helpers = {h for c in converted.values() for h in c.helpers} | module.helpers
    made |= helper_files(helpers - {UNKNOWN}, renamed)
    unknown = {k: v for c in converted.values() for k, v in c.unknown.items()}
    if unknown:
        made[f"{UNKNOWN}.py"] = to_fill(unknown)
    left = tuple(_left(converted.items()))
    return Ejected({**files, **made}, frozenset(made), left=left, entry=entry)


def _left(converted: Iterable[tuple[str, Converted]]) -> Iterable[str]:
    for where, file in converted:
        for name, full in file.unknown.items():
            was = full.removeprefix("promptflow.")
            yield f"{name} of to_fill.py: {where} imports it (it was {was} there)"


def _flow(module: Module, source: Source) -> str:
    """Write `run`; of a function nothing where it is called as experiment.yaml says it."""
    place, _, name = source.flow.entry.partition(":")
    path = code.module_file(source.flow.folder, place)
    tree = code.parse(path)
    node = code.top_level(tree).get(name) if tree else None
    if tree and isinstance(node, ast.ClassDef):
        module.use("from typing import Any")
        module.use(f"from {place} import {name}")
        _object(module, source.flow, node)
        _call(module, tree, node, path)
        return ""
    # A package is imported from the flow's folder, and what is set is set before.
    if "." in place or graph.environment(source.flow.definition):
        module.use(f"from {place} import {name} as run")
        module.add('__all__ = ["run"]')
        return ""
    return f"/{path.relative_to(source.flow.folder).as_posix()}:{name}"


def _object(module: Module, flow: Flow, node: ast.ClassDef) -> None:
    start = code.method(node, "__init__")
    hints = code.parameters(start) if start else {}
    given = [
        f"{k}={_made(module, v, hints[k].hint if k in hints else '')}"
        for k, v in (_defaults(flow) | flow.init).items()
    ]
    module.add(
        f"@{module.helper('once', 'once')}",
        f"def program() -> {node.name}:",
        '    """The flow\'s own object, made once."""',
        f"    return {node.name}({', '.join(given)})",
    )


def _call(module: Module, tree: ast.Module, node: ast.ClassDef, path: Path) -> None:
    call = code.called(tree, node.name)
    if call is None:
        raise UserError(f"{path}: the class {node.name} has no __call__.")
    every = parameters(tree, call).values()
    # A default that has to be computed stays the class's own.
    taken = [p for p in every if not isinstance(p.default, ast.expr)]
    others = len(taken) < len(every)
    signature = [_parameter(p) for p in sorted(taken, key=lambda p: not p.required)]
    passed = [*(f"{p.name}={p.name}" for p in taken), *(["**others"] if others else [])]
    # What gives pieces is not awaited.
    awaited = kind(call) == "async"
    module.add(
        f"{'async ' if awaited else ''}def run("
        f"{', '.join([*signature, *(['**others: Any'] if others else [])])}) -> Any:",
        '    """One row."""',
        f"    return {'await ' if awaited else ''}program()({', '.join(passed)})",
    )
    if code.method(node, "__aggregate__"):
        module.add(
            "def aggregate(rows: list[dict[str, Any]]) -> dict[str, Any]:",
            '    """The metrics of all rows."""',
            "    return program().__aggregate__(rows)",
        )


def _defaults(flow: Flow) -> dict[str, Any]:
    """The arguments of the class that the flow's file has a default for."""
    given = flow.definition.get("init") or {}
    blocks = {k: b for k, b in given.items() if isinstance(b, Mapping)}
    return {k: b["default"] for k, b in blocks.items() if "default" in b}


def _parameter(parameter: code.Parameter) -> str:
    known = ("str", "int", "float", "bool", "list", "dict")
    hint = parameter.hint if parameter.hint in known else "Any"
    if parameter.required:
        return f"{plain(parameter.name)}: {hint}"
    return f"{plain(parameter.name)}: Any = {literal(parameter.default)}"


def _made(module: Module, value: Any, hint: str) -> str:
    """An argument of the class: a model's configuration, a connection or a literal."""
    named = next((c for c in _CONFIGURATIONS if c in hint), "")
    if named and isinstance(value, Mapping):
        module.helper("prompty", named)
        own = ", ".join(f"{k}={_value(module, v)}" for k, v in value.items() if k != "type")
        return f"{named}({own})"
    if "Connection" in hint and isinstance(value, str):
        kind = hint.rpartition(".")[2]
        return f"{module.helper('connections', kind)}.from_environment({prefix(value)!r})"
    return _value(module, value)


def _value(module: Module, value: Any) -> str:
    found = _ENVIRONMENT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return literal(value)
    module.use("import os")
    return f'os.environ["{found[1]}"]'
