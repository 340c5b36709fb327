"""Any node as the expression that does its work."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from llmops import code
from llmops.code import Parameter
from llmops.ejecting import clients, llm
from llmops.ejecting.expressions import Expressions, implies, literal
from llmops.ejecting.graph import Node, Reference, Value
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.sources import Tool
from llmops.ejecting.values import coerced
from llmops.ejecting.writer import Writer


def call(writer: Writer, node: Node, see: Expressions) -> str:
    """The expression of a node. What cannot be converted becomes a function to fill in."""
    try:
        if node.type == "llm":
            return llm.call(writer, node, see)
        if node.type == "prompt":
            return _prompt(writer, node, see)
        if node.type == "embedding":
            return _embedding(writer, node, see)
        if node.type == "python":
            return _python(writer, node, see)
    except ValueError as error:
        return _to_fill(writer, node, see, str(error))
    return _to_fill(writer, node, see, _what(node))


def _prompt(writer: Writer, node: Node, see: Expressions) -> str:
    helper, given = writer.module.helper, []
    for name, value in llm.filled(writer, node.source, node.inputs).items():
        text = llm.passed(writer, value, node, see)
        typed = isinstance(value, Reference) and value.kind == "input"
        if typed and node.name in writer.quoted and _may_be_text(writer, value):
            text = f"{helper('chat', 'quote')}({text})"
        given.append(llm.argument(name, text))
    return f"{helper('chat', 'render')}({', '.join([repr(node.source), *given])})"


def _may_be_text(writer: Writer, value: Value) -> bool:
    # Into the lists of a prompt node prompt flow does not look.
    other = ("int", "double", "bool", "image", "list")
    return not (isinstance(value, Reference) and llm.kind_of(writer, value) in other)


def _embedding(writer: Writer, node: Node, see: Expressions) -> str:
    kind, inputs = writer.kind(node), node.inputs
    if not kind:
        raise ValueError(f"its connection '{node.connection}' leads to no model")
    usual = "" if kind == "AzureOpenAIConnection" else "text-embedding-ada-002"
    name = "deployment_name" if kind == "AzureOpenAIConnection" else "model"
    model = see.value(inputs.get(name, usual), node.guard)
    text = llm.passed(writer, inputs.get("input"), node, see)
    text, more = (f"[{text}]", ', encoding_format="float"') if kind[:1] == "S" else (text, "")
    client = clients.of_node(writer, node.connection)
    return f"{client}().embeddings.create(model={model}, input={text}{more}).data[0].embedding"


# ---- Python nodes


def _python(writer: Writer, node: Node, see: Expressions) -> str:
    tool = writer.tool(node)
    if tool is None:
        raise ValueError(f"{node.source} has no function with @tool")
    name = writer.names.functions[node.source]
    writer.module.use(str(name))
    call_, making = arguments(writer, node, tool, see)
    text = f"{name.alias}({', '.join(making)}).{tool.name}" if tool.owner else name.alias
    text = f"{text}({', '.join(call_)})"
    if tool.kind == "async":
        writer.module.use("import asyncio")
        return f"asyncio.run({text})"
    return f"{writer.module.helper('streams', 'joined')}({text})" if "_" in tool.kind else text


def arguments(
    writer: Writer, node: Node, tool: Tool, see: Expressions
) -> tuple[list[str], list[str]]:
    """What a node's function is given, and what its class is made with."""
    given: tuple[list[str], list[str]] = ([], [])
    for name, value in node.inputs.items():
        parameter = tool.parameters.get(name) or tool.making.get(name)
        text = (
            _reference(writer, node, value, parameter, see)
            if isinstance(value, Reference)
            else _literal(writer, node, value, parameter, tool)
        )
        making = name in tool.making and name not in tool.parameters
        given[making].append(_if_worked(value, node, parameter, see) or llm.argument(name, text))
    return given


def _if_worked(value: Value, node: Node, parameter: Parameter | None, see: Expressions) -> str:
    """The argument of a node that may be left out, for a parameter with a computed default."""
    guard = see.guard(value) if isinstance(value, Reference) else None
    if parameter is None or not isinstance(value, Reference) or guard is None:
        return ""
    if not isinstance(parameter.default, ast.expr) or implies(node.guard, guard):
        return ""
    return f"**({{{parameter.name!r}: {see.plain(value)}}} if {see.condition(guard)} else {{}})"


def _reference(
    writer: Writer, node: Node, value: Reference, parameter: Parameter | None, see: Expressions
) -> str:
    """Another's output; of a node that was left out the parameter's default, if it is not null."""
    text, guard = llm.passed(writer, value, node, see), see.guard(value)
    default = parameter.default if parameter and not parameter.required else None
    if (
        guard is None
        or default is None
        or isinstance(default, ast.expr)
        or implies(node.guard, guard)
    ):
        return text
    return f"({see.plain(value)} if {see.condition(guard)} else {literal(default)})"


def _literal(
    writer: Writer, node: Node, value: Value, parameter: Parameter | None, tool: Tool
) -> str:
    hint = parameter.hint if parameter and not tool.untyped else ""
    helper, module = writer.module.helper, writer.names.functions[node.source].module
    if hint in tool.connections:
        writer.module.use(f"from {module} import {hint}")
        return f'{hint}.from_environment("{prefix(str(value))}")'
    if "Connection" in hint and isinstance(value, str):
        named = writer.source.types.get(value) or hint.rpartition(".")[2]
        kind = named if named in CONNECTIONS else "CustomConnection"
        return f'{helper("connections", kind)}.from_environment("{prefix(value)}")'
    if hint.rpartition(".")[2] in ("Image", "PFImage"):
        return f"{helper('images', 'load_image')}({literal(value)})"
    if "AssistantDefinition" in hint:
        raise ValueError("an assistant's definition")
    return literal(coerced(value, _type(parameter, tool)))


CONNECTIONS = {
    *("AzureOpenAIConnection", "OpenAIConnection", "ServerlessConnection", "CustomConnection"),
    "CognitiveSearchConnection",
}


def _type(parameter: Parameter | None, tool: Tool) -> str:
    """prompt flow's name of the type that a parameter's literal is read as."""
    if parameter is None:
        return ""
    if not parameter.hint:
        return _TYPES.get(type(parameter.default).__name__, "object")
    if tool.untyped:
        return "object"
    hint = _OPTIONAL.sub(r"\2", parameter.hint.replace("typing.", ""))
    if hint in tool.enums:
        return "string"
    return _TYPES.get(hint.rpartition(".")[2], "object")


_TYPES = {name: code.TYPES[name] for name in ("str", "int", "float", "bool", "list")}
# These it does not read at all.
_TYPES |= dict.fromkeys(("Secret", "FilePath", "PromptTemplate"), "")
_OPTIONAL = re.compile(r"(Optional\[|Union\[(?:None, )?)([\w.]+)(?:, None)?\]")
"""`Optional[str]` is a text to prompt flow; `str | None`, `Union[str, int]` may be any JSON."""


# ---- What is left


def _what(node: Node) -> str:
    tool = node.tool.removeprefix("promptflow.tools.")
    return f"the tool {tool} of a package" if tool else f"a node of type '{node.type}'"


def _to_fill(writer: Writer, node: Node, see: Expressions, why: str) -> str:
    """A function that raises until somebody fills it in; the command lists it."""
    name, given = f"{plain(node.name).lower()}_to_fill", _inputs(node)
    taken = ", ".join(f"{plain(k)}: Any" for k in given)
    writer.module.use("from typing import Any")
    told = literal(f"{name}() of flow.py is to be filled in: {why}")
    writer.module.add(
        f"def {name}({taken}) -> Any:",
        f'    """To fill in: the node {node.name} was {why}."""'
        if len(why) < 50
        else f'    """To fill in: the node {node.name}."""',
        f"    raise NotImplementedError({told.strip('()') if told.startswith('(') else told})",
    )
    writer.module.left.append(f"{name}() of flow.py: the node '{node.name}': {why}")
    passed = [f"{plain(k)}={llm.passed(writer, v, node, see)}" for k, v in given.items()]
    return f"{name}({', '.join(passed)})"


def _inputs(node: Node) -> Mapping[str, Value]:
    more = {"connection": node.connection} if node.connection else {}
    return {**more, **node.inputs}
