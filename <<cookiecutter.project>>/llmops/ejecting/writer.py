"""What both writers share: the source, and the module that grows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.config import Connection
from llmops.ejecting import sources
from llmops.ejecting.graph import MODELS, Graph, Node, Reference, without_needless
from llmops.ejecting.names import Names, choose, no_parameter
from llmops.ejecting.requests import Request
from llmops.ejecting.sources import Converted, Tool
from llmops.errors import UserError
from llmops.flows import Flow, files

IMAGES = ("data:image", "image_url")
HELPERS = Path(__file__).with_name("helpers")


@dataclass(frozen=True)
class Source:
    """A flow to write anew: `target` is its new folder, `connections` are those of experiment.yaml.

    `rows` are inputs as the experiment's datasets give them; an input that no row holds comes from
    another flow's outputs. `skipped` are folders of the flow that are made, not written.
    """

    flow: Flow
    target: Path
    connections: Mapping[str, Connection]
    rows: tuple[dict[str, Any], ...] = ()
    skipped: tuple[Path, ...] = ()

    @property
    def types(self) -> dict[str, str]:
        """The type of each connection."""
        return {name: c.connection_type for name, c in self.connections.items()}

    def files(self) -> dict[str, Path]:
        """The files of the flow by the names they have beside its own, without its definition."""
        return {
            name: path
            for name, path in files(self.flow)
            if name != self.flow.file
            and Path(name).suffix != ".pyc"
            and not name.endswith((".dag.yaml", "flow.tools.json"))
            and not any(path.is_relative_to(folder) for folder in self.skipped)
        }


@dataclass
class Module:
    """The text of a module as it grows, with what it imports and what has to lie beside it."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)
    helpers: set[str] = field(default_factory=set)
    parts: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def helper(self, module: str, name: str) -> str:
        """Import a name of a helper; returns the name."""
        self.helpers.add(module)
        self.imports.add(f"from {self.renamed.get(module, module)} import {name}")
        return name

    def use(self, line: str) -> None:
        """Import something."""
        self.imports.add(line)

    def add(self, *lines: str) -> None:
        """A function or a constant, line by line."""
        text = "\n".join(lines)
        if text not in self.parts:
            self.parts.append(text)


class Speech:
    """How the module asks a model; a subclass asks through another package.

    `define` begins its functions, `sdk` the names of the openai package's classes.
    """

    define = "def"
    sdk = ""

    def ask(
        self, module: Module, client: str, request: Request, arguments: Mapping[str, str]
    ) -> list[str]:
        """The lines that ask and return the answer; `arguments` are expressions by their names."""
        given = ", ".join(f"{name}={text}" for name, text in arguments.items())
        return [
            f"answer = {client}().{request.call}.create({given})",
            f"return answer{request.tail}",
        ]


@dataclass
class Writer:
    """A DAG and the module that is written of it.

    `tools` are the functions of its nodes by their files, `converted` its files without promptflow,
    `renamed` the helpers whose names the flow's own files have. `quoted` are the prompt nodes whose
    text keeps apart what a person typed, for the messages that are made of it.
    """

    source: Source
    graph: Graph
    tools: Mapping[str, Tool]
    converted: Mapping[str, Converted]
    renamed: Mapping[str, str]
    names: Names
    quoted: frozenset[str]
    module: Module
    speech: Speech = field(default_factory=Speech)

    def tool(self, node: Node) -> Tool | None:
        """The function of a Python node; null where its file has none."""
        return self.tools.get(node.source)

    def kind(self, node: Node) -> str:
        """The type of the connection of an LLM node, "" where none leads to a model."""
        kind = self.source.types.get(node.connection, "")
        return kind if kind in MODELS else ""

    @property
    def shows_images(self) -> bool:
        """Whether images come in, or the flow's own code knows of them."""
        known = any("images" in c.helpers for c in self.converted.values())
        given = [str(i.default) for i in self.graph.inputs] + [str(r) for r in self.source.rows]
        typed = any(i.type == "image" for i in self.graph.inputs)
        return known or typed or any(mark in text for text in given for mark in IMAGES)

    @property
    def logs(self) -> bool:
        """Whether the flow's own code logs metrics."""
        return any("metrics" in c.helpers for c in self.converted.values())


def begin(source: Source, graph: Graph) -> Writer:
    """A writer with nothing written yet."""
    places = source.files()
    renamed = renamed_helpers(places)
    paths = {node.source for node in graph.every() if node.type == "python"}
    found = {p: sources.tool(places[p]) for p in sorted(paths) if p in places}
    tools = {path: tool for path, tool in found.items() if tool is not None}
    graph = without_needless(graph, _true_or_false(graph, tools))
    asked = {n.connection for n in graph.every() if n.connection}
    names = choose(graph, tools, sorted(asked))
    converted = convert(source, renamed)
    quoted = _quoted(graph)
    module = Module(renamed, notes=list(_among_others(graph)))
    return Writer(source, graph, tools, converted, renamed, names, quoted, module)


def _among_others(graph: Graph) -> Iterator[str]:
    for name in (i.name for i in graph.inputs if no_parameter(i.name)):
        yield among_others(name)


def among_others(name: str) -> str:
    """The sentence about an input whose name no parameter can have."""
    return (
        f"The input '{name}' cannot be the name of a parameter: `run` takes it among its "
        f"`others`. Map it in experiment.yaml: `{name}: ${{data.{name}}}`."
    )


def _true_or_false(graph: Graph, tools: Mapping[str, Tool]) -> set[Reference]:
    """What is either, and in every row: inputs, and what functions say that they return."""
    found = {Reference("input", i.name) for i in graph.inputs if i.type == "bool"}
    for node in graph.nodes:
        every = [tools.get(n.source) for n in graph.versions(node).values() if n.type == "python"]
        if node.guard is None and every and all(tool and tool.hint == "bool" for tool in every):
            found.add(Reference("node", node.name))
    return found


def convert(source: Source, renamed: Mapping[str, str]) -> dict[str, Converted]:
    """The flow's Python files that import promptflow, without it."""
    found = {}
    for name, path in source.files().items():
        if name.endswith(".py") and sources.uses_promptflow(path):
            try:
                found[name] = sources.convert(path, renamed)
            except (SyntaxError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: not Python in UTF-8: {error}.") from error
    return found


def renamed_helpers(places: Collection[str]) -> dict[str, str]:
    """The helpers whose names the flow's own files have, with the names they get instead."""
    every = [path.stem for path in HELPERS.glob("*.py") if path.stem != "__init__"]
    modules = {
        place.partition("/")[0].removesuffix(".py") for place in places if place[-3:] == ".py"
    }
    return {helper: f"{helper}_helper" for helper in every if helper in modules}


def _quoted(graph: Graph) -> frozenset[str]:
    """The prompt nodes that feed messages or such a prompt, and hold what a person typed."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.type != "prompt":
            continue
        fed = any(user.type in ("llm", "prompt") for user in graph.users(node.name))
        if fed and any(_typed(reference, found) for reference in node.references):
            found.add(node.name)
    return frozenset(found)


def _typed(reference: Reference, quoted: set[str]) -> bool:
    return reference.kind == "input" or reference.name in quoted
