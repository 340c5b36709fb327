"""Checks of a DAG's nodes that need neither promptflow nor the flow's own code to run.

What is refused is certain to fail: prompt flow's own rules decide, and where they cannot be told
from the files alone (an unusual hint, a decorator of the flow's own), nothing is said.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops import code, flows
from llmops.code import Function
from llmops.data import REFERENCE, Table, complete_mappings, resolve
from llmops.flows import Flow

LOOKED_AT = 5
"""How many of a dataset's first rows decide whether a column fits an input."""
TYPES = {"python", "llm", "prompt", "custom_llm"}
INPUTS = ("inputs.", "flow.")
"""How a reference to one of the flow's inputs begins; the second is prompt flow's older way."""
MODELS = {"AzureOpenAIConnection", "OpenAIConnection", "ServerlessConnection"}
MODELS |= {"azure_open_ai", "open_ai", "serverless"}
_HINTS = {"int": "int", "float": "double", "bool": "bool", "list": "list", "str": "string"}
_REFERENCE = re.compile(r"\$\{(.+)\}", re.DOTALL)

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a tool: its type in prompt flow's words, "" where it takes anything."""

    required: bool
    type: str = ""
    connection: bool = False


@dataclass(frozen=True)
class Tool:
    """The function that a Python node calls; `more` if it takes any other input (`**kwargs`)."""

    name: str
    parameters: Mapping[str, Parameter]
    more: bool


def problems(flow: Flow, connections: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a DAG's nodes, a sentence each with file, node and input.

    `connections` are those that the flow may use: their types by their names.
    """
    if flow.kind != "dag":
        return
    nodes = [node for name in flow.nodes for node in flow.versions(name)]
    sources = dict(flows.files(flow))
    for node in nodes:
        yield from _source_problems(flow, node, sources)
        yield from _reference_problems(flow, node)
        if node.get("type") == "llm" and not node.get("connection"):
            yield from _no_connection(flow, node, connections)
        file = _file(flow, node, sources)
        if node.get("type") == "python" and file is not None:
            yield from _tool_problems(flow, node, file, connections)
    for name, output in (flow.definition.get("outputs") or {}).items():
        reference = output.get("reference") if isinstance(output, Mapping) else None
        if problem := _refers_to_nothing(flow, reference):
            yield f"{flow.path}: outputs.{name}: {problem}."


def unfit(where: str, mappings: Mapping[str, Any], flow: Flow, table: Table) -> Iterator[str]:
    """Inputs of a DAG whose type no value fits that they get in a dataset's first rows."""
    if flow.kind != "dag":
        return
    records = list(itertools.islice(table, LOOKED_AT))
    for name, value in complete_mappings(mappings, flow.inputs).items():
        block = (flow.definition.get("inputs") or {}).get(name)
        kind = block.get("type", "") if isinstance(block, Mapping) else ""
        if isinstance(value, str) and REFERENCE.match(value) and not value.startswith("${data."):
            continue
        values = []
        for record in records:
            try:
                values.append(resolve(value, {"data": record}))
            except KeyError:
                continue
        if values and not any(fits(item, kind) for item in values):
            place = f"{table.path}: line {table.line(0)}: " if _referred(value) else ""
            yield (
                f"{where}.{name}: {place}{_shown(values[0])} is no {kind} "
                f"({flow.path}: inputs.{name}.type)."
            )


def fits(value: Any, kind: str) -> bool:
    """Whether prompt flow takes a value for an input of this type."""
    try:
        if kind == "int":
            int(value)
        elif kind == "double":
            float(value)
        elif kind == "bool":
            return isinstance(value, bool) or str(value).lower() in ("true", "false")
        elif kind == "list":
            return isinstance(json.loads(value) if isinstance(value, str) else value, list)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


# ---- Where a node's code or prompt is


def _file(flow: Flow, node: Node, sources: Mapping[str, Path]) -> Path | None:
    """The file that a node's source names, of the flow or of its `additional_includes`."""
    source = node.get("source")
    path = source.get("path") if isinstance(source, Mapping) else None
    if not path:
        return None
    place = flow.folder / str(path)
    return place if place.is_file() else sources.get(Path(str(path)).as_posix())


def _source_problems(flow: Flow, node: Node, sources: Mapping[str, Path]) -> Iterator[str]:
    where, kind, source = _where(flow, node), node.get("type"), node.get("source")
    if kind not in TYPES:
        yield f"{where}: type '{kind}' (expected one of {', '.join(sorted(TYPES))})."
    elif not isinstance(source, Mapping):
        yield f"{where}: has no source. Give its type and path."
    elif source.get("type") == "package":
        if not source.get("tool"):
            yield f"{where}: source.tool: missing. Name the tool of a package."
    elif not source.get("path"):
        yield f"{where}: source.path: missing. Name the node's file."
    elif _file(flow, node, sources) is None:
        suffix = Path(str(source["path"])).suffix
        beside = sorted(name for name in sources if name.endswith(suffix) and "/" not in name)
        yield (
            f"{where}: source.path: '{source['path']}' is not there "
            f"(files: {', '.join(beside) or 'none'})."
        )


def _no_connection(flow: Flow, node: Node, connections: Mapping[str, str]) -> Iterator[str]:
    """An LLM node without a connection takes the only one that leads to a model."""
    models = sorted(name for name, kind in connections.items() if kind in MODELS)
    if len(models) != 1:
        yield (
            f"{_where(flow, node)}: connection: none, and experiment.yaml names "
            f"{len(models) or 'no'} connections to a model ({', '.join(models) or 'none'}). "
            "Name one on the node, or exactly one in experiment.yaml."
        )


# ---- References


def _reference_problems(flow: Flow, node: Node) -> Iterator[str]:
    for name, value in (node.get("inputs") or {}).items():
        if problem := _refers_to_nothing(flow, value):
            yield f"{_where(flow, node)}: inputs.{name}: {problem}."
    activate = node.get("activate")
    if isinstance(activate, Mapping) and (
        problem := _refers_to_nothing(flow, activate.get("when"))
    ):
        yield f"{_where(flow, node)}: activate.when: {problem}."


def _refers_to_nothing(flow: Flow, value: Any) -> str:
    reference = _referred(value)
    if reference is None:
        return ""
    for prefix in INPUTS:
        if reference.startswith(prefix):
            known = ", ".join(flow.inputs) or "none"
            found = reference.removeprefix(prefix) in flow.inputs
            return "" if found else f"'{value}' refers to no input of the flow (inputs: {known})"
    node, _, rest = reference.partition(".")
    if node not in flow.nodes:
        return f"'{value}' refers to no node (nodes: {', '.join(flow.nodes)})"
    if rest and rest.partition(".")[0].partition("[")[0] != "output":
        return f"'{value}': a node has only an output (expected ${{{node}.output}})"
    return ""


def _referred(value: Any) -> str | None:
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None


# ---- Python tools


def _tool_problems(
    flow: Flow, node: Node, file: Path, connections: Mapping[str, str]
) -> Iterator[str]:
    where = f"{file}: node '{node['name']}'"
    try:
        tree = ast.parse(file.read_bytes(), file.name)
    except SyntaxError as error:
        yield f"{where}: line {error.lineno}: not Python: {error.msg}."
        return
    except (OSError, ValueError, RecursionError) as error:
        yield f"{where}: cannot be read ({error})."
        return
    found = tools(tree)
    if found is None:
        return
    if len(found) == 1:
        yield from _input_problems(_where(flow, node), node, file, found[0], connections)
    elif found:
        names = ", ".join(sorted(tool.name for tool in found))
        yield f"{where}: {len(found)} functions with @tool ({names}). Give each a file of its own."
    else:
        names = ", ".join(part.name for part in tree.body if isinstance(part, Function))
        yield (
            f"{where}: no function with @tool (functions: {names or 'none'}). Put @tool before "
            "the one that the node calls."
        )


def _input_problems(
    where: str, node: Node, file: Path, tool: Tool, connections: Mapping[str, str]
) -> Iterator[str]:
    # A literal that is empty counts as not given.
    inputs = {k: v for k, v in (node.get("inputs") or {}).items() if v is not None and v != ""}
    for name, parameter in tool.parameters.items():
        if parameter.required and name not in inputs:
            yield (
                f"{where}: the function '{tool.name}' of {file.name} needs the input '{name}', "
                "which the node does not give."
            )
    for name, value in inputs.items():
        parameter = tool.parameters.get(name) or Parameter(False)
        if name not in tool.parameters and not tool.more:
            known = ", ".join(tool.parameters) or "none"
            yield (
                f"{where}: inputs.{name}: the function '{tool.name}' of {file.name} has no such "
                f"input (expected one of {known})."
            )
        elif _referred(value) is None and parameter.connection and value not in connections:
            yield (
                f"{where}: inputs.{name}: the connection {_shown(value)} is not in experiment.yaml "
                f"(connections: {', '.join(sorted(connections)) or 'none'})."
            )
        elif _referred(value) is None and not fits(value, parameter.type):
            yield (
                f"{where}: inputs.{name}: {_shown(value)} is no {parameter.type}, as the function "
                f"'{tool.name}' of {file.name} wants it."
            )


def tools(tree: ast.Module) -> list[Tool] | None:
    """The functions and methods with @tool; null where the file alone does not tell them."""
    names = {"tool"}
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom):
            names |= {a.asname for a in part.names if a.name == "tool" and a.asname}
            if any(alias.name == "*" for alias in part.names):
                return None
        if isinstance(part, ast.Assign | ast.AnnAssign | ast.Return) and (
            isinstance(part.value, ast.Call) and _is_tool(part.value.func, names)
        ):
            return None
    hints = _known_hints(tree)
    found: dict[str, Tool] = {}
    for part in _definitions(tree.body):
        methods = part.body if isinstance(part, ast.ClassDef) else [part]
        start = [m for m in methods if isinstance(m, Function) and m.name == "__init__"]
        for method in methods:
            if not isinstance(method, Function):
                continue
            marks = [_is_tool(decorator, names) for decorator in method.decorator_list]
            if any(marks):
                if not all(marks[at] or _is_trace(d) for at, d in enumerate(method.decorator_list)):
                    return None  # another decorator may change the parameters
                name = method.name if part is method else f"{part.name}.{method.name}"
                found[name] = _tool(name, [*start, method], hints)
    return list(found.values())


def _known_hints(tree: ast.Module) -> dict[str, str]:
    """What hints mean to prompt flow: a type in its words, or "connection".

    None where hints are texts (`from __future__ import annotations`): it takes those for anything.
    """
    known = dict(_HINTS)
    for part in ast.walk(tree):
        if isinstance(part, ast.ImportFrom) and part.module == "__future__":
            return {}
        if isinstance(part, ast.ImportFrom) and str(part.module).startswith("promptflow"):
            names = {alias.asname or alias.name: alias.name for alias in part.names}
            known |= {own: "connection" for own, n in names.items() if n.endswith("Connection")}
        if isinstance(part, ast.ClassDef):
            bases = {_last(base) for base in part.bases}
            known[part.name] = "connection" if "CustomStrongTypeConnection" in bases else ""
    return known


def _definitions(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Functions and classes of a module, also within `if` and `try`."""
    for part in body:
        if isinstance(part, Function | ast.ClassDef):
            yield part
        for block in ("body", "orelse", "finalbody"):
            if isinstance(part, ast.If | ast.Try | ast.With):
                yield from _definitions(getattr(part, block, []))
        for handler in getattr(part, "handlers", []):
            yield from _definitions(handler.body)


def _is_tool(node: ast.expr, names: set[str]) -> bool:
    node = node.func if isinstance(node, ast.Call) else node
    return _last(node) in (names if isinstance(node, ast.Name) else {"tool"})


def _is_trace(node: ast.expr) -> bool:
    return _last(node.func if isinstance(node, ast.Call) else node) in ("trace", "staticmethod")


def _last(node: ast.expr) -> str:
    """The last word of a name such as `promptflow.tool`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _tool(name: str, functions: list[Function], hints: Mapping[str, str]) -> Tool:
    """A tool with the parameters of its function, after those of its class's __init__."""
    parameters: dict[str, Parameter] = {}
    more = False
    for function in functions:
        for at, (argument, default) in enumerate(code.arguments(function)):
            if argument.arg != "self" or at:
                parameters[argument.arg] = _parameter(argument.annotation, default, hints)
        more = more or function.args.kwarg is not None
    return Tool(name, parameters, more)


def _parameter(
    hint: ast.expr | None, default: ast.expr | None, hints: Mapping[str, str]
) -> Parameter:
    required = default is None
    if hint is None:
        value = default.value if isinstance(default, ast.Constant) else None
        return Parameter(required, _HINTS.get(type(value).__name__, ""))
    kinds = [hints.get(_last(part), "") for part in _choices(hint)]
    if set(kinds) == {"connection"}:
        return Parameter(required, connection=True)
    return Parameter(required, kinds[0] if len(kinds) == 1 else "")


def _choices(hint: ast.expr) -> list[ast.expr]:
    """The members of Optional[…] and Union[…] but None; else the hint itself."""
    if isinstance(hint, ast.Subscript) and _last(hint.value) in ("Optional", "Union"):
        inner = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
        return [
            part
            for part in inner
            if not (isinstance(part, ast.Constant) and part.value is None)
            and _last(part) != "NoneType"
        ]
    return [hint]


def _where(flow: Flow, node: Node) -> str:
    return f"{flow.path}: node '{node['name']}'"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
