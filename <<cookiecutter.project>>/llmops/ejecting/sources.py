"""Python files of a flow without promptflow: a few lines change, all others stay as they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmops import code
from llmops.code import Function, Parameter

GONE = {"tool", "trace", "start_trace"}
"""What prompt flow marked functions with: a flow works the same without."""
HELPERS = {
    **dict.fromkeys(("log_metric", "log_flow_metric"), "metrics"),
    **dict.fromkeys(("Image", "PFImage"), "images"),
    **dict.fromkeys(("Secret", "FilePath", "PromptTemplate"), "values"),
    **dict.fromkeys(
        ("AzureOpenAIConnection", "OpenAIConnection", "CustomConnection"), "connections"
    ),
    **dict.fromkeys(("CognitiveSearchConnection", "ServerlessConnection"), "connections"),
    "CustomStrongTypeConnection": "connections",
    **dict.fromkeys(("InputSetting", "DynamicList"), "values"),
    **dict.fromkeys(("Prompty", "AsyncPrompty"), "prompty"),
    **dict.fromkeys(("AzureOpenAIModelConfiguration", "OpenAIModelConfiguration"), "prompty"),
}
"""The helper that has each of promptflow's names."""
RENAMED = {"log_flow_metric": "log_metric", "PFImage": "Image"}
FUNCTIONS = {
    ("promptflow.tools.aoai", "chat"): ("asking", "azure_chat"),
    ("promptflow.tools.openai", "chat"): ("asking", "openai_chat"),
    ("promptflow.tools.common", "init_azure_openai_client"): ("asking", "azure_client"),
    ("promptflow.tools.common", "init_openai_client"): ("asking", "openai_client"),
    ("promptflow.tools.common", "parse_chat"): ("chat", "split"),
    ("promptflow.tools.common", "render_jinja_template"): ("chat", "render_text"),
}
"""The helper's function for each of promptflow's tools that code may call."""
UNKNOWN = "to_fill"
"""The module of what nothing here stands for."""

Kind = Literal["plain", "generator", "async", "async_generator"]


@dataclass(frozen=True)
class Tool:
    """The function of a Python node: `name`, of the class `owner` if it is a method.

    `parameters` and `making` (those of the class) have their hints as written; where `untyped`
    prompt flow took a literal for what JSON it is. `returns` is a class of the file with
    attributes instead of keys, "" without; `hint` the function's own of what it returns.
    """

    name: str
    kind: Kind
    parameters: dict[str, Parameter]
    owner: str = ""
    making: dict[str, Parameter] = field(default_factory=dict)
    untyped: bool = False
    returns: str = ""
    hint: str = ""
    enums: frozenset[str] = frozenset()
    connections: frozenset[str] = frozenset()

    @property
    def imported(self) -> str:
        """What the module is asked for."""
        return self.owner or self.name


@dataclass(frozen=True)
class Converted:
    """A file without promptflow: its text, the helpers that it imports, the names to fill in."""

    text: str
    helpers: frozenset[str] = frozenset()
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass
class _Edits:
    """Lines to replace, by their first and last number; what they bring with them."""

    lines: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)
    unknown: dict[str, str] = field(default_factory=dict)


def tool(path: Path) -> Tool | None:
    """The function of a node's file that prompt flow calls; null where there is none."""
    tree = code.parse(path)
    if tree is None:
        return None
    names = {a.asname or a.name for a in _aliases(tree) if a.name == "tool"} | {"tool"}
    for owner, function in _functions(tree):
        if any(_last(mark) in names for mark in function.decorator_list):
            return _tool(tree, owner, function)
    return None


def convert(path: Path, renamed: Mapping[str, str]) -> Converted:
    """The file without promptflow's imports and decorators.

    A name that a helper has is imported from there, which may be `renamed`; one that nothing stands
    for from `to_fill`.

    Raises:
        SyntaxError: it is not Python. UnicodeDecodeError, OSError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8-sig")
    tree = ast.parse(text, path.name)
    edits = _Edits()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_promptflow(node.module):
            _import(edits, node, renamed)
        elif isinstance(node, ast.Import):
            _plain_import(edits, node, tree)
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            _decorators(edits, node)
        if isinstance(node, ast.ClassDef):
            _base(edits, node, text)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            _call(edits, node)
    return Converted(_edited(text, edits), frozenset(edits.helpers), edits.unknown)


def uses_promptflow(path: Path) -> bool:
    """Whether a file imports promptflow."""
    tree = code.parse(path)
    return tree is not None and any(_is_promptflow(module) for module, _ in code.imports(tree))


# ---- What a node's function is


def _functions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from ((node, part) for part in node.body if isinstance(part, Function))
        elif isinstance(node, ast.Module | ast.If | ast.Try):
            yield from ((None, part) for part in node.body if isinstance(part, Function))


def _tool(tree: ast.Module, owner: ast.ClassDef | None, function: Function) -> Tool:
    start = code.method(owner, "__init__") if owner else None
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {c.name: {_last(base) for base in c.bases} for c in classes}
    connections = {n for n, b in bases.items() if "CustomStrongTypeConnection" in b}
    hint = ast.unparse(function.returns) if function.returns else ""
    return Tool(
        function.name,
        kind(function),
        parameters(tree, function),
        owner.name if owner else "",
        parameters(tree, start) if start else {},
        any(a.name == "annotations" for a in _aliases(tree)),
        next((c.name for c in classes if _has_fields(c) and _makes(function, c.name)), ""),
        hint,
        frozenset(n for n, b in bases.items() if any("Enum" in base for base in b)),
        frozenset(connections),
    )


def parameters(tree: ast.Module, function: Function) -> dict[str, Parameter]:
    """A function's parameters; a name of the module's own is what it stands for.

    A default that has to be computed is an `ast.expr`.
    """
    own = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    given = {arg.arg: default for arg, default in code.arguments(function)}
    found = {}
    for name, parameter in code.parameters(function).items():
        hint = ast.unparse(own[parameter.hint]) if parameter.hint in own else parameter.hint
        found[name] = replace(parameter, hint=hint, default=_default(given[name], own))
    return found


def _default(node: ast.expr | None, own: Mapping[str, ast.expr]) -> Any:
    node = own.get(node.id, node) if isinstance(node, ast.Name) else node
    spelled = isinstance(node, ast.Constant) or code.literal(node) is not None
    return code.literal(node) if spelled else node


def kind(function: Function) -> Kind:
    """Whether a function is awaited, and whether it gives its answer in pieces."""
    pieces = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own(function))
    if isinstance(function, ast.AsyncFunctionDef):
        return "async_generator" if pieces else "async"
    return "generator" if pieces else "plain"


def _has_fields(node: ast.ClassDef) -> bool:
    return any(_last(mark) == "dataclass" for mark in node.decorator_list)


def _makes(function: Function, name: str) -> bool:
    """Whether a function says or shows that it returns an object of a class."""
    if function.returns is not None and ast.unparse(function.returns).strip("'\"") == name:
        return True
    returned = (n.value for n in _own(function) if isinstance(n, ast.Return))
    return any(isinstance(v, ast.Call) and _last(v.func) == name for v in returned)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, without the functions that are defined in it."""
    for part in ast.iter_child_nodes(node):
        if not isinstance(part, Function | ast.Lambda | ast.ClassDef):
            yield part
            yield from _own(part)


def _aliases(tree: ast.Module) -> Iterator[ast.alias]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from node.names


def _is_promptflow(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "promptflow"


def _last(node: ast.expr) -> str:
    """The last word of a name or call: `tool` of `@promptflow.tool()`."""
    node = node.func if isinstance(node, ast.Call) else node
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


# ---- Which lines change


def _import(edits: _Edits, node: ast.ImportFrom, renamed: Mapping[str, str]) -> None:
    lines = []
    for alias in node.names:
        local = alias.asname or alias.name
        if alias.name in GONE or alias.name == "ToolProvider":
            edits.names[local] = alias.name
            continue
        helper, name = HELPERS.get(alias.name, UNKNOWN), RENAMED.get(alias.name, alias.name)
        if known := FUNCTIONS.get((node.module or "", alias.name)):
            helper, name = known
        if helper == UNKNOWN:
            edits.unknown[name] = f"{node.module}.{alias.name}"
        edits.helpers.add(helper)
        more = f" as {local}" if local != name else ""
        lines.append(f"from {renamed.get(helper, helper)} import {name}{more}")
    edits.lines[node.lineno, node.end_lineno or node.lineno] = _indented(node, lines)


def _plain_import(edits: _Edits, node: ast.Import, tree: ast.Module) -> None:
    """`import promptflow` goes where only its decorators are used; else a module to fill comes."""
    ours = [alias for alias in node.names if _is_promptflow(alias.name)]
    if not ours:
        return
    lines = [f"import {ast.unparse(alias)}" for alias in node.names if alias not in ours]
    for alias in ours:
        local = alias.asname or alias.name.partition(".")[0]
        used = {text.rpartition(".")[2] for text in _uses(tree, local)}
        if used - GONE:
            edits.unknown[local] = alias.name
            edits.helpers.add(UNKNOWN)
            lines.append(f"from {UNKNOWN} import {local}")
        edits.names |= {name: name for name in used & GONE}
    edits.lines[node.lineno, node.end_lineno or node.lineno] = _indented(node, lines)


def _uses(tree: ast.Module, local: str) -> set[str]:
    """What of a module is used: `promptflow.core.tool`, without the parts of such a name."""
    every = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    own = {text for text in every if text.startswith(f"{local}.")}
    return {text for text in own if not any(other.startswith(f"{text}.") for other in own)}


def _indented(node: ast.stmt, lines: list[str]) -> list[str]:
    inner = lines or (["pass"] if node.col_offset else [])
    return [" " * node.col_offset + line for line in inner]


def _decorators(edits: _Edits, node: Function | ast.ClassDef) -> None:
    for mark in node.decorator_list:
        if edits.names.get(_last(mark)) in GONE:
            edits.lines[mark.lineno, mark.end_lineno or mark.lineno] = []


def _base(edits: _Edits, node: ast.ClassDef, text: str) -> None:
    """A class of tools stands on nothing then."""
    if any(edits.names.get(_last(base)) == "ToolProvider" for base in node.bases):
        line = text.split("\n")[node.lineno - 1]
        others = [b for b in node.bases if edits.names.get(_last(b)) != "ToolProvider"]
        bases = ", ".join(map(ast.unparse, [*others, *node.keywords]))
        own = f"class {node.name}({bases})" if bases else f"class {node.name}"
        edits.lines[node.lineno, node.lineno] = [re.sub(r"class \w+\s*\(.*?\)(?=\s*:)", own, line)]


def _call(edits: _Edits, node: ast.Expr) -> None:
    if edits.names.get(_last(node.value)) == "start_trace":
        edits.lines[node.lineno, node.end_lineno or node.lineno] = _indented(node, [])


def _edited(text: str, edits: _Edits) -> str:
    lines = text.split("\n")
    for (first, last), new in sorted(edits.lines.items(), reverse=True):
        lines[first - 1 : last] = new
        # Of the blank lines around what is gone one block stays.
        if not new and _blank(lines, first - 2) and _blank(lines, first - 1):
            del lines[first - 1]
    return "\n".join(lines).lstrip("\n")


def _blank(lines: list[str], at: int) -> bool:
    return 0 <= at < len(lines) and not lines[at].strip()
