"""LLM nodes: a function `ask_<node>` each, which makes the very request that prompt flow made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateSyntaxError, meta
from jinja2.sandbox import SandboxedEnvironment

from llmops.ejecting import clients, requests
from llmops.ejecting.expressions import Expressions, literal
from llmops.ejecting.graph import Node, Reference, Value
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.requests import Request
from llmops.ejecting.writer import Writer

TYPES = {
    **{"string": "str", "int": "int", "double": "float", "bool": "bool", "list": "list[Any]"},
    "object": "Any",
}
_WITHIN = {
    *("messages", "render", "quote", "lines", "show", "settings", "variant", "answer", "os"),
    *("plain", "NOT_GIVEN", "int"),
}
"""What a function that asks may use itself."""
_NOT_TYPED = ("int", "double", "bool", "image")
"""Types of inputs that hold no text of a person."""


def call(writer: Writer, node: Node, see: Expressions) -> str:
    """The expression that asks an LLM node's model; its function comes to the module.

    Raises:
        ValueError: the node has no connection to a model, or a parameter is not as it must be.
    """
    versions = writer.graph.versions(node)
    found = {name: _request(writer, version) for name, version in versions.items()}
    name = writer.names.asks[node.name]
    merged = _merged(versions, found)
    if merged is None:
        return _one_of(writer, node, found, see)
    asking = _Asking(writer, name, node, merged, found)
    asking.write()
    given = _given(writer, node, merged, see)
    return f"{name}({', '.join([*given, *asking.variant])})"


def passed(writer: Writer, value: Value, node: Node, see: Expressions) -> str:
    """What an input of a node is given; a prompt's text keeps its quotes where messages follow."""
    text = see.value(value, node.guard)
    if not isinstance(value, Reference) or value.kind == "input" or value.name not in writer.quoted:
        return text
    kept = node.name in writer.quoted or (node.type == "llm" and node.api != "completion")
    return text if kept else f"{writer.module.helper('chat', 'plain')}({text})"


def filled(writer: Writer, source: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values that a prompt's file uses; all of them where it cannot be read as a template."""
    try:
        text = writer.source.files()[source].read_text(encoding="utf-8-sig")
        used = meta.find_undeclared_variables(SandboxedEnvironment().parse(text))
    except (TemplateSyntaxError, UnicodeDecodeError, OSError, KeyError):
        return dict(values)
    return {name: value for name, value in values.items() if name in used}


def taken(writer: Writer, node: Node) -> list[Reference]:
    """What a node is given of the flow's inputs and of other nodes; a prompt need not use all."""
    values = [*node.inputs.values()]
    if node.type == "prompt":
        values = [*filled(writer, node.source, node.inputs).values()]
    elif node.type == "llm":
        with suppress(ValueError):  # what is to be filled in takes them all
            request = _request(writer, node)
            values = [*request.values.values(), *request.parameters.values(), request.model]
    return [value for value in values if isinstance(value, Reference)]


def _request(writer: Writer, node: Node) -> Request:
    kind = writer.kind(node)
    if not kind:
        known = ", ".join(writer.source.connections) or "none"
        named = f"the connection '{node.connection}'" if node.connection else "no connection"
        raise ValueError(f"{named} leads to a model in experiment.yaml (connections: {known})")
    asked = requests.of(node, kind)
    return replace(asked, values=filled(writer, asked.prompt, asked.values))


def _merged(versions: Mapping[str, Node], found: Mapping[str, Request]) -> Request | None:
    """One request for all variants, which differ in prompt and parameters alone; else null."""
    values: dict[str, Value] = {}
    for request in found.values():
        if any(values.get(k, v) != v for k, v in request.values.items()):
            return None
        values |= request.values
    shapes = {(r.call, r.message, r.vision, r.model is None) for r in found.values()}
    referred = {repr(_referred(request.parameters)) for request in found.values()}
    places = {
        (node.connection, isinstance(found[v].model, Reference)) for v, node in versions.items()
    }
    if len(shapes) > 1 or len(referred) > 1 or len(places) > 1:
        return None
    return replace(next(iter(found.values())), values=values)


def _one_of(writer: Writer, node: Node, found: Mapping[str, Request], see: Expressions) -> str:
    """Variants that have little in common: a function each, and the one that is asked for."""
    parameter, parts = writer.names.variants[node.name], []
    for variant, version in writer.graph.versions(node).items():
        name = writer.names.asks[f"{node.name}.{variant}"]
        _Asking(writer, name, version, found[variant], {variant: found[variant]}).write()
        asked = f"{name}({', '.join(_given(writer, version, found[variant], see))})"
        parts.append(f"{asked} if {parameter} == {variant!r} else")
    return f"({' '.join(parts)[: -len(f' if {parameter} == {variant!r} else')]})"


def _given(writer: Writer, node: Node, request: Request, see: Expressions) -> list[str]:
    return [f"{k}={passed(writer, v, node, see)}" for k, v in _references(request).items()]


def _references(request: Request) -> dict[str, Reference]:
    """What the function takes: the inputs that are others' outputs, by their names."""
    return _referred({**request.values, **request.parameters, "model": request.model})


def _referred(values: Mapping[str, Value]) -> dict[str, Reference]:
    return {local(k): v for k, v in values.items() if isinstance(v, Reference)}


def local(name: str) -> str:
    """The parameter of a function that asks, which has names of its own."""
    return f"{name}_" if name in _WITHIN else plain(name)


def argument(name: str, text: str) -> str:
    """An argument by its name, which may be none in Python: a word of its own, or `my-name`."""
    return f"{name}={text}" if plain(name) == name else f"**{{{name!r}: {text}}}"


@dataclass(frozen=True)
class _Asking:
    """The function that asks for one node; `found` are the requests of its variants."""

    writer: Writer
    name: str
    node: Node
    request: Request
    found: Mapping[str, Request]

    @property
    def table(self) -> list[str]:
        """In what the variants differ: prompt, model, parameters."""
        every = [_settings(request) for request in self.found.values()]
        names = dict.fromkeys(name for settings in every for name in settings)
        return [n for n in names if any(s.get(n, ...) != every[0].get(n, ...) for s in every)]

    @property
    def variant(self) -> list[str]:
        """The argument that says which variant."""
        parameter = self.writer.names.variants.get(self.node.name, "")
        return [f"variant={parameter}"] if self.table else []

    def write(self) -> None:
        """Add the function to the module, and the table of its variants before it."""
        module, request = self.writer.module, self.request
        client = clients.of_node(self.writer, self.node.connection)
        module.use("from typing import Any")
        if self.table:
            module.add(self._constant())
        taken = [f"{k}: {self._hint(v)}" for k, v in _references(request).items()]
        taken += ["variant: str"] if self.table else []
        given = [self._model(), self._text(), *self._parameters()]
        arguments = dict(text.split("=", 1) for text in given)
        asked = self.writer.speech.ask(module, client, request, arguments)
        module.add(
            f"{self.writer.speech.define} {self.name}({', '.join(taken)}) -> {_returned(request)}:",
            f'    """Ask the model of the node {self.node.name}."""',
            *([f"    settings = {self._constant_name}[variant]"] if self.table else []),
            *(f"    {line}" for line in asked),
        )

    @property
    def _constant_name(self) -> str:
        return self.name.removeprefix("ask_").upper()

    def _constant(self) -> str:
        rows = []
        for variant, request in self.found.items():
            own = {k: v for k, v in _settings(request).items() if k in self.table}
            rows.append(f"    {variant!r}: {literal(own)},")
        return "\n".join([f"{self._constant_name}: dict[str, dict[str, Any]] = {{", *rows, "}"])

    def _setting(self, name: str) -> str:
        if all(name in _settings(request) for request in self.found.values()):
            return f'settings["{name}"]'
        self.writer.module.use("from openai import NOT_GIVEN")
        return f'settings.get("{name}", NOT_GIVEN)'

    def _model(self) -> str:
        """The model by its name, in whose place the connection may have its own."""
        model = self.request.model
        variable = f"{prefix(self.node.connection)}_MODEL"
        named = "model" if isinstance(model, Reference) else literal(model)
        named = self._setting("model") if "model" in self.table else named
        if not self.request.own_model:
            return f"model={named}"
        self.writer.module.use("import os")
        if model is None:
            self.writer.module.notes.append(
                f"The node '{self.node.name}' names no model: set {variable}."
            )
            return f'model=os.environ["{variable}"]'
        return f'model=os.environ.get("{variable}", {named})'

    def _text(self) -> str:
        """The argument that the prompt makes."""
        prompt = self._setting("prompt") if "prompt" in self.table else repr(self.request.prompt)
        helper = self.writer.module.helper
        if self.request.call == "completions":
            values = [argument(k, _literal_or(k, v)) for k, v in self.request.values.items()]
            return f"prompt={helper('chat', 'render')}({', '.join([prompt, *values])})"
        values = [argument(k, self._shown(k, v)) for k, v in self.request.values.items()]
        made = f"{helper('chat', 'messages')}({', '.join([prompt, *values])})"
        if self.request.vision:
            images = ", ".join([made, *_referred(self.request.values)])
            return f"messages={helper('images', 'show')}({images})"
        return f"messages={made}"

    def _shown(self, name: str, value: Value) -> str:
        """A value in a message: what a person typed is quoted, lists are shown as they were."""
        helper, text = self.writer.module.helper, _literal_or(name, value)
        kind = self._kind(value)
        typed = isinstance(value, Reference) and value.kind == "input"
        by_line = self.writer.kind(self.node) == "AzureOpenAIConnection" or self.request.vision
        # Where lists are no lines, prompt flow does not look into them either.
        if typed and kind not in _NOT_TYPED and (by_line or kind != "list"):
            text = f"{helper('chat', 'quote')}({text})"
        if by_line and kind in ("list", "object", ""):
            text = f"{helper('chat', 'lines')}({text})"
        return text

    def _kind(self, value: Value) -> str:
        """prompt flow's name of the type that a value certainly has, "" where it may be any."""
        if not isinstance(value, Reference):
            return "string" if isinstance(value, str) else "" if isinstance(value, list) else "int"
        return "list" if self._is_column(value) else kind_of(self.writer, value)

    def _is_column(self, reference: Reference) -> bool:
        """Whether it stands for a value of each row, in a node that works over all of them."""
        graph = self.writer.graph
        over_rows = reference.kind == "node" and graph.node(reference.name).aggregation
        return self.node.aggregation and not over_rows

    def _hint(self, reference: Reference) -> str:
        if self._is_column(reference):
            return TYPES["list"]
        asked = reference.kind == "node" and self.writer.graph.node(reference.name).type == "llm"
        hint = TYPES.get(kind_of(self.writer, reference), "Any")
        return "str | None" if asked and hint == "str" else hint

    def _parameters(self) -> Iterator[str]:
        every = dict.fromkeys(k for r in self.found.values() for k in r.parameters)
        for name in every:
            value = self.request.parameters.get(name)
            if name in self.table:
                yield f"{name}={self._setting(name)}"
            elif isinstance(value, Reference):
                yield f"{name}={self._given_parameter(name, value)}"
            else:
                yield f"{name}={literal(_number(value))}"

    def _given_parameter(self, name: str, value: Reference) -> str:
        """A parameter that another node or the row gives."""
        unlimited = name == "max_tokens" and kind_of(self.writer, value) != "int"
        if unlimited or name in requests.IF_ANY:
            self.writer.module.use("from openai import NOT_GIVEN")
        if unlimited and self.request.call != "completions":
            return f'NOT_GIVEN if {name} in (None, "inf") else int({name})'
        if name in requests.IF_ANY:
            return f"{name} or NOT_GIVEN"
        convert = "int" if name in ("max_tokens", "n") else ""
        return f"{convert}({name})" if convert else name


def kind_of(writer: Writer, reference: Reference) -> str:
    """prompt flow's name of the type of what is referred to, "" where it may be anything."""
    if reference.kind == "input":
        found = next((i.type for i in writer.graph.inputs if i.name == reference.name), "")
        return "" if found == "object" else found
    node = writer.graph.node(reference.name)
    if reference.steps or (writer.graph.variants.get(node.name) and node.type == "python"):
        return ""
    if node.type == "prompt":
        return "string"
    if node.type == "llm":
        asks = {*node.inputs} & {"functions", "tools"}
        return "" if asks else "string"
    tool = writer.tool(node)
    known = {"str": "string", "int": "int", "float": "double", "bool": "bool"}
    return known.get(tool.hint, "") if tool else ""


def _settings(request: Request) -> dict[str, Any]:
    """What of a request is fixed: prompt, model and parameters."""
    fixed = {"prompt": request.prompt, "model": request.model, **request.parameters}
    return {k: _number(v) for k, v in fixed.items() if not isinstance(v, Reference)}


def _number(value: Any) -> Any:
    """0.0 as 0: both are sent alike."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _literal_or(name: str, value: Value) -> str:
    return local(name) if isinstance(value, Reference) else literal(value)


def _returned(request: Request) -> str:
    if request.message:
        return "dict[str, Any]"
    return "str" if request.call == "completions" else "str | None"
