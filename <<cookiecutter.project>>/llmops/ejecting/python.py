"""A DAG as a plain Python module: `run` for a row, `aggregate` for all rows."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from llmops.ejecting import graph as graphs
from llmops.ejecting import llm, nodes
from llmops.ejecting.beside import Ejected, beside
from llmops.ejecting.expressions import Columns, Expressions, literal
from llmops.ejecting.graph import Guard, Input, Node, Reference
from llmops.ejecting.llm import TYPES
from llmops.ejecting.names import no_parameter, prefix
from llmops.ejecting.values import TEXT_OR_JSON, coerced, conversion
from llmops.ejecting.writer import Source, Writer, begin

_PROPERTY = re.compile(r"\$\{([\w-]+)\.([\w-]+)\}")


def write(source: Source) -> Ejected:
    """The files of a DAG's folder as a Python flow.

    Raises:
        UserError: the DAG's nodes wait for each other.
    """
    writer = begin(source, graphs.read(source.flow, source.types))
    see = expressions(writer)
    body = list(_body(writer, see))
    outputs = {n: output(writer, see, v) for n, v in writer.graph.outputs.items()}
    kept = {n: text for n, text in outputs.items() if text}
    wrap = "load" if writer.shows_images else ""
    columns = Columns(see, writer.graph.outputs, lambda r: kept_value(writer, see, r), wrap)
    over_rows = list(work_over_rows(writer, columns))
    _run(writer, body, {**kept, **columns.more})
    if over_rows:
        aggregate(writer, over_rows)
    return beside(writer, text(writer))


def expressions(writer: Writer) -> Expressions:
    """How the graph's references are written."""
    tools = {node.name: writer.tool(node) for node in writer.graph.nodes if node.type == "python"}
    fields = [name for name, tool in tools.items() if tool and tool.returns]
    true_or_false = [name for name, tool in tools.items() if tool and tool.hint == "bool"]
    return Expressions(writer.graph, writer.names, fields, true_or_false)


def text(writer: Writer) -> str:
    """The module's text, before it is formatted."""
    module, graph = writer.module, writer.graph
    head = [f'"""The flow {graph.name}: one row in, its outputs out."""', ""]
    first = imports(module.imports, graph.environment)
    parts = [f"{part}\n\n" for part in module.parts]
    return "\n".join([*exceptions(module.parts), *head, *first, "", *parts])


def imports(lines: Collection[str], environment: Mapping[str, str]) -> list[str]:
    """The imports of a module; before them what may be read while they are made."""
    first = ["from __future__ import annotations", ""]
    sets = [f"os.environ.setdefault({k!r}, {_variable(v)})" for k, v in environment.items()]
    if not sets:
        return [*first, *sorted(lines), ""]
    return [*first, "import os", "", *sets, "", *sorted({*lines} - {"import os"}), ""]


def _variable(given: str) -> str:
    """What a variable is set to: a text, or what belongs to a connection."""
    found = _PROPERTY.fullmatch(given)
    return f'os.environ["{prefix(found[1])}_{found[2].upper()}"]' if found else literal(given)


def exceptions(parts: list[str]) -> list[str]:
    """What this repo's rules would have otherwise, and prompt flow's file decides."""
    tree = [node for part in parts for node in ast.walk(ast.parse(part))]
    given = {node.arg for node in tree if isinstance(node, ast.arg)}
    stored = {n.id for n in tree if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found = {
        "N803": any(name != name.lower() for name in given),
        "E712": any(" == True" in part or " == False" in part for part in parts),
        "E741": bool({"l", "O", "I"} & {*given, *stored}),
    }
    rules = [rule for rule, broken in found.items() if broken]
    return [f"# ruff: noqa: {', '.join(rules)}", ""] if rules else []


# ---- One row


def _body(writer: Writer, see: Expressions) -> Iterator[str]:
    """The nodes' work, what is guarded alike under one `if`."""
    last: Guard | None = None
    for node in writer.graph.nodes:
        if node.aggregation:
            continue
        if node.guard is not None and node.guard != last:
            yield f"if {see.condition(node.guard)}:"
        last = node.guard
        yield from (f"{'    ' if last else ''}{line}" for line in work(writer, node, see))


def work(writer: Writer, node: Node, see: Expressions) -> Iterator[str]:
    """The lines of one node; of variants that are no prompts' each has its own."""
    versions = writer.graph.versions(node)
    target = f"{writer.names.nodes[node.name]} = " if used(writer, node) else ""
    if len(versions) == 1 or all(version.type == "llm" for version in versions.values()):
        yield f"{target}{nodes.call(writer, node, see)}"
        return
    calls = {name: nodes.call(writer, version, see) for name, version in versions.items()}
    parameter = writer.names.variants[node.name]
    if table := _table(writer, node, calls):
        yield f"{target}{table}"
        return
    for at, (name, call) in enumerate(calls.items()):
        yield f"{'elif' if at else 'if'} {parameter} == {name!r}:"
        yield f"    {target}{call}"
    yield "else:"
    yield f'    raise ValueError(f"no variant {{{parameter}!r}}")'


def _table(writer: Writer, node: Node, calls: dict[str, str]) -> str:
    """One call of one function whose literals stand in a table; "" where the calls differ more."""
    trees = {name: ast.parse(call, mode="eval").body for name, call in calls.items()}
    first = next(iter(trees.values()))
    functions = {ast.unparse(t.func) if isinstance(t, ast.Call) else "" for t in trees.values()}
    if len(functions) > 1 or not isinstance(first, ast.Call) or functions == {"asyncio.run"}:
        return ""
    given = {
        n: {k.arg: k.value for k in t.keywords} for n, t in trees.items() if isinstance(t, ast.Call)
    }
    every = dict.fromkeys(k for keywords in given.values() for k in keywords)
    texts = {k: {ast.unparse(g[k]) if k in g else "" for g in given.values()} for k in every}
    own = [k for k, found in texts.items() if len(found) > 1]
    if (
        first.args
        or None in every
        or any(k in g and not _is_literal(g[k]) for g in given.values() for k in own)
    ):
        return ""
    parameter = writer.names.variants[node.name]
    name = f"{parameter.rpartition('.')[2].upper()}S"
    rows = [
        f"    {variant!r}: {{{', '.join(f'{k!r}: {ast.unparse(g[k])}' for k in own if k in g)}}},"
        for variant, g in given.items()
    ]
    writer.module.use("from typing import Any")
    writer.module.add(f"{name}: dict[str, dict[str, Any]] = {{", *rows, "}")
    same = [f"{k}={ast.unparse(v)}" for k, v in next(iter(given.values())).items() if k not in own]
    chosen = f"**{name}[{parameter}]"
    return f"{functions.pop()}({', '.join([*same, chosen])})"


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def used(writer: Writer, node: Node) -> bool:
    """Whether anything takes what a node gives."""
    return ("node", node.name) in _named(writer)


def _named(writer: Writer) -> set[tuple[str, str]]:
    """Kind and name of all that is referred to; an output of all rows goes nowhere."""
    over_rows = {("node", n.name) for n in writer.graph.nodes if n.aggregation}
    outputs = [v for v in writer.graph.outputs.values() if isinstance(v, Reference)]
    given = [v for v in outputs if (v.kind, v.name) not in over_rows]
    whens = [r for n in writer.graph.nodes for r in _whens(n.guard)]
    taken = [r for n in writer.graph.every() for r in llm.taken(writer, n)]
    return {(r.kind, r.name) for r in [*given, *whens, *taken]}


def _whens(guard: Guard | None) -> Iterator[Reference]:
    if isinstance(guard, graphs.Is):
        yield guard.when
    for part in getattr(guard, "guards", ()):
        yield from _whens(part)


def output(writer: Writer, see: Expressions, value: graphs.Value) -> str:
    """An output of the flow; "" of one that only the aggregation gives."""
    if not isinstance(value, Reference):
        return literal(value)
    node = writer.graph.node(value.name) if value.kind == "node" else None
    if node is not None and node.aggregation:
        return ""
    # Of a node that was left out all is null, and to ask for a part of it fails, as it did.
    return _plain(writer, see.plain(value), value)


def kept_value(writer: Writer, see: Expressions, reference: Reference) -> str:
    """What the aggregation needs besides the outputs."""
    return _plain(writer, see.reference(reference), reference)


def _plain(writer: Writer, given: str, reference: Reference) -> str:
    """What is referred to, as JSON keeps it."""
    node = writer.graph.node(reference.name) if reference.kind == "node" else None
    if node is not None and node.name in writer.quoted:
        given = f"{writer.module.helper('chat', 'plain')}({given})"
    tool = writer.tool(node) if node is not None and node.type == "python" else None
    if tool and tool.returns and not reference.steps:
        writer.module.use("from dataclasses import asdict")
        given = f"asdict({given})"
    if _may_be_image(writer, node):
        form = "dump_as_url" if writer.graph.images == "openai-vision" else "dump"
        given = f"{writer.module.helper('images', form)}({given})"
    return given


def _may_be_image(writer: Writer, node: Node | None) -> bool:
    if node is not None and node.type != "python":
        return False
    return writer.shows_images


def _run(writer: Writer, body: list[str], outputs: dict[str, str]) -> None:
    guarded = [n for n in writer.graph.nodes if n.guard and used(writer, n) and not n.aggregation]
    nothing = [f"{writer.names.nodes[node.name]} = None" for node in guarded]
    named = _named(writer)
    # Of an input that nothing needs there is no line, if it is no parameter.
    wanted = [
        i for i in writer.graph.inputs if not no_parameter(i.name) or ("input", i.name) in named
    ]
    first = [line for i in wanted for line in prepare(writer, i)]
    writer.module.use("from typing import Any")
    returned = ", ".join(f"{name!r}: {value}" for name, value in outputs.items())
    writer.module.add(
        f"def run({signature(writer)}) -> dict[str, Any]:",
        '    """One row."""',
        *(f"    {line}" for line in [*first, *nothing, *body]),
        f"    return {{{returned}}}",
    )


def signature(writer: Writer) -> str:
    """The parameters of `run`: the inputs, then what chooses among variants."""
    inputs = sorted(writer.graph.inputs, key=lambda i: not i.required)
    taken = [_parameter(writer, i) for i in inputs if not no_parameter(i.name)]
    others = ["**others: Any"] if len(taken) < len(inputs) else []
    in_rows = {n.name for n in writer.graph.nodes if not n.aggregation}
    variants = [
        f"{writer.names.variants[node]}: str = {next(iter(versions))!r}"
        for node, versions in writer.graph.variants.items()
        if node in in_rows
    ]
    return ", ".join([*taken, *(["*", *variants] if variants else []), *others])


def _parameter(writer: Writer, given: Input) -> str:
    name, hint = writer.names.inputs[given.name], TYPES.get(given.type, "Any")
    if given.required:
        return f"{name}: {hint}"
    default = coerced(given.default, given.type)
    if isinstance(default, list | dict):
        return f"{name}: {hint}{'' if hint == 'Any' else ' | None'} = None"
    return f"{name}: {hint} = {literal(default)}"


def prepare(writer: Writer, given: Input) -> Iterator[str]:
    """The lines that make an input what the nodes take."""
    name = writer.names.inputs[given.name]
    default = coerced(given.default, given.type)
    if no_parameter(given.name):
        yield f"{name} = {_of_others(given, default)}"
    if isinstance(default, list | dict):
        yield f"if {name} is None:"
        yield f"    {name} = {literal(default)}"
    known = [row[given.name] for row in writer.source.rows if given.name in row]
    if change := conversion(name, given.type, known):
        if "json." in change:
            writer.module.use("import json")
        if change == TEXT_OR_JSON.format(name):
            writer.module.helper("values", "json_or_text")
        yield f"{name} = {change}"
    if given.type == "image":
        yield f"{name} = {writer.module.helper('images', 'load_image')}({name})"
    elif given.type in ("list", "object") and writer.shows_images:
        yield f"{name} = {writer.module.helper('images', 'load')}({name})"


def _of_others(given: Input, default: Any) -> str:
    """An input whose name no parameter can have."""
    if given.required:
        return f"others[{given.name!r}]"
    usual = "" if isinstance(default, list | dict) else f", {literal(default)}"
    return f"others.get({given.name!r}{usual})"


# ---- All rows


def work_over_rows(writer: Writer, see: Columns) -> Iterator[str]:
    """The lines of the nodes that work over all rows."""
    for node in writer.graph.nodes:
        if node.aggregation:
            yield from work(writer, node, see)


def aggregate(writer: Writer, lines: list[str]) -> None:
    """Add the function that does this work to the module."""
    if any("load(row" in line for line in lines):
        writer.module.helper("images", "load")
    writer.module.use("from typing import Any")
    inner = [f"        {line}" for line in lines]
    within = ["    with logged_metrics() as metrics:", *inner, "    return metrics"]
    if writer.logs:
        writer.module.helper("metrics", "logged_metrics")
    writer.module.add(
        "def aggregate(rows: list[dict[str, Any]]) -> dict[str, Any]:",
        '    """The metrics of all rows."""',
        *(within if writer.logs else [*(f"    {line}" for line in lines), "    return {}"]),
    )
