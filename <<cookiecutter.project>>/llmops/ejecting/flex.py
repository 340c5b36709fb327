"""A flex flow without prompt flow: its own code, and `run` that calls it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmops import code
from llmops.ejecting.beside import Ejected, helper_files, to_fill
from llmops.ejecting.expressions import literal
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.sources import UNKNOWN, Converted
from llmops.ejecting.writer import Module, Source, convert, renamed_helpers
from llmops.errors import UserError

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
    if module.parts:
        # The flow's own code may have a flow.py.
        name = "program.py" if "flow.py" in places else "flow.py"
        imports = ["from __future__ import annotations", "", *sorted(module.imports), ""]
        head = [f'"""The flow {source.flow.folder.name}: its class, called for each row."""', ""]
        made[name] = "\n".join([*head, *imports, *(f"{part}\n\n" for part in module.parts)])
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
    """Write `run` of a class; of a function nothing, and where it is as experiment.yaml says it."""
    place, _, name = source.flow.entry.partition(":")
    path = code.module_file(source.flow.folder, place)
    tree = code.parse(path)
    node = code.top_level(tree).get(name) if tree else None
    if not hasattr(node, "bases"):
        return f"/{path.relative_to(source.flow.folder).as_posix()}:{name}"
    call = code.called(tree, name) if tree else None
    if call is None:
        raise UserError(f"{path}: the class {name} has no __call__.")
    start = code.method(node, "__init__")  # type: ignore[arg-type]
    hints = code.parameters(start) if start else {}
    given = [
        f"{k}={_made(module, v, hints[k].hint if k in hints else '')}"
        for k, v in source.flow.init.items()
    ]
    taken = list(code.parameters(call).values())
    module.use("from typing import Any")
    module.use(f"from {place} import {name}")
    module.add(
        f"@{module.helper('once', 'once')}",
        f"def program() -> {name}:",
        '    """The flow\'s own object, made once."""',
        f"    return {name}({', '.join(given)})",
    )
    asynchronous = "async " if type(call).__name__ == "AsyncFunctionDef" else ""
    signature = [_parameter(p) for p in sorted(taken, key=lambda p: not p.required)]
    passed = ", ".join(f"{p.name}={p.name}" for p in taken)
    module.add(
        f"{asynchronous}def run({', '.join(signature)}) -> Any:",
        '    """One row."""',
        f"    return {'await ' if asynchronous else ''}program()({passed})",
    )
    if code.method(node, "__aggregate__"):  # type: ignore[arg-type]
        module.add(
            "def aggregate(rows: list[dict[str, Any]]) -> dict[str, Any]:",
            '    """The metrics of all rows."""',
            "    return program().__aggregate__(rows)",
        )
    return ""


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
