"""Python names for a DAG's inputs, nodes and functions, none of them twice."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from llmops.ejecting.graph import Graph
from llmops.ejecting.sources import Tool

OWN = {
    *(
        "run",
        "aggregate",
        "rows",
        "row",
        "metrics",
        "logged_metrics",
        "asdict",
        "once",
        "os",
        "json",
    ),
    *(
        "asyncio",
        "messages",
        "render",
        "quote",
        "plain",
        "lines",
        "load",
        "load_image",
        "dump",
        "show",
    ),
    *("joined", "answer", "settings", "variant", "connections", "Any", "AzureOpenAI", "OpenAI"),
    *("NOT_GIVEN", "DefaultAzureCredential", "get_bearer_token_provider", "json_or_text"),
}
"""What flow.py may use itself."""
WITHIN_RUN = {
    *("render", "quote", "plain", "load", "load_image", "dump", "dump_as_url", "asdict", "joined"),
    *("json", "json_or_text", "asyncio", "isinstance", "str", "int", "float", "bool", "list"),
}
"""What `run` may use itself, so that no parameter of it can have the name."""
MODULES = {"flow", "openai", "jinja2", "aggregate_rows"}


@dataclass(frozen=True)
class Imported:
    """The function or class of a node's file: its module there, its name, and its name here."""

    module: str
    name: str
    alias: str

    def __str__(self) -> str:
        more = f" as {self.alias}" if self.alias != self.name else ""
        return f"from {self.module} import {self.name}{more}"


@dataclass(frozen=True)
class Names:
    """The variable of each input and node, the parameter of each node's variants, the function
    that makes each connection's client, the one that asks for each LLM node (and for each variant
    of it, by `node.variant`), and what is imported of each node's file."""

    inputs: Mapping[str, str]
    nodes: Mapping[str, str]
    variants: Mapping[str, str]
    clients: Mapping[str, str]
    asks: Mapping[str, str]
    functions: Mapping[str, Imported]


def choose(graph: Graph, tools: Mapping[str, Tool], connections: Iterable[str]) -> Names:
    """The names of a graph; `tools` are its nodes' functions by their files."""
    taken = {*OWN, *dir(builtins), *keyword.kwlist}
    inputs: dict[str, str] = {}
    for name in sorted((i.name for i in graph.inputs), key=no_parameter):
        inputs[name] = _free(variable(name), "_", set(inputs.values()))
    taken |= set(inputs.values())
    asks = {key: _free(f"ask_{plain(key).lower()}", "_", taken) for key in _asking(graph)}
    modules = {source: module(source) for source in tools}
    wanted = [tool.imported for tool in tools.values()]
    functions = {}
    for source, tool in tools.items():
        name = tool.imported
        clash = name in taken or wanted.count(name) > 1
        alias = _free(f"{modules[source].rpartition('.')[2]}_node" if clash else name, "_", taken)
        functions[source] = Imported(modules[source], name, alias)
    # A function that asks has these as parameters, and calls a client.
    given = {name for node in graph.every() if node.type == "llm" for name in node.inputs}
    clients: dict[str, str] = {}
    for connection in connections:
        known = {*taken, *given, *clients.values()}
        clients[connection] = _free(plain(connection).lower(), "_client", known)
    taken |= set(clients.values())
    nodes = {n.name: plain(n.name).lower() for n in graph.nodes}
    variants = {n: _free(f"{nodes[n]}_variant", "_", taken) for n in graph.variants}
    nodes = {name: _free(variable, "_output", taken) for name, variable in nodes.items()}
    return Names(inputs, nodes, variants, clients, asks, functions)


def _asking(graph: Graph) -> Iterator[str]:
    """The LLM nodes, and each of their variants as `node.variant`."""
    for node in graph.nodes:
        if any(version.type == "llm" for version in graph.versions(node).values()):
            yield node.name
            yield from (f"{node.name}.{variant}" for variant in graph.variants.get(node.name, ()))


def no_parameter(name: str) -> bool:
    """Whether an input cannot be a parameter of `run` under its own name."""
    return plain(name) != name or name in WITHIN_RUN


def variable(name: str) -> str:
    """The variable of an input."""
    return f"{name}_" if name in WITHIN_RUN else plain(name)


def plain(name: str) -> str:
    """A name as Python takes it."""
    found = re.sub(r"\W", "_", name)
    found = f"_{found}" if found[:1].isdigit() else found
    return f"{found}_" if keyword.iskeyword(found) else found


def module(source: str) -> str:
    """The module of a Python file beside flow.py; one that would hide another is renamed."""
    parts = [plain(part) for part in source.removesuffix(".py").split("/")]
    if len(parts) == 1 and (parts[0] in MODULES or parts[0] in sys.stdlib_module_names):
        parts = [f"{parts[0]}_node"]
    return ".".join(parts)


def prefix(connection: str) -> str:
    """How the variables of a connection begin: AOAI of AOAI_API_KEY."""
    return re.sub(r"\W", "_", connection).upper()


def _free(name: str, more: str, taken: set[str]) -> str:
    while name in taken:
        name += more
    taken.add(name)
    return name
