"""A DAG as its parts in the order of their work: what each takes, and when it is left out.

Nothing here knows what is written of it: `python` and `agent_framework` write over the same graph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmops.errors import UserError
from llmops.flows import Flow, overlay

_WHOLE = re.compile(r"\$\{(.+)\}", re.DOTALL)
_ODD = re.compile(r"\$\{[^.{}]+\.output\[[^.]*\}")
_STEP = re.compile(r"(\w+)|\[('.*?'|\".*?\"|\d+)\]")
MODELS = ("AzureOpenAIConnection", "OpenAIConnection", "ServerlessConnection")
"""The types of connection that lead to a model."""
VISION = (
    "promptflow.tools.aoai_gpt4v.AzureOpenAI.chat",
    "promptflow.tools.openai_gpt4v.OpenAI.chat",
)
LLM_TOOL = "promptflow.tools.llm.llm"
EMBEDDING = "promptflow.tools.embedding.embedding"

Type = Literal["llm", "prompt", "python", "embedding", "tool"]


@dataclass(frozen=True)
class Step:
    """A part of what is referred to: `.key` (an item or an attribute), or `['key']` and `[0]`."""

    key: str | int
    dotted: bool = False


@dataclass(frozen=True)
class Reference:
    """`${inputs.name}` or `${name.output.steps}`."""

    kind: Literal["input", "node"]
    name: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Is:
    """What `activate` asks: `when` is equal to `value`."""

    when: Reference
    value: Any


@dataclass(frozen=True)
class All:
    """Every one of these."""

    guards: tuple[Guard, ...]


@dataclass(frozen=True)
class Any_:  # noqa: N801  # the name Any is taken
    """One of these at least."""

    guards: tuple[Guard, ...]


Guard = Is | All | Any_
Value = Reference | Any
"""What an input is given: another's output, or the literal that it is."""


@dataclass(frozen=True)
class Node:
    """A node in one variant.

    `source` is its file, relative to the flow; `tool` the name of a package's tool, "" of the
    flow's own code. `inputs` has no empty ones: those are not passed. `connection` and `api`
    (`chat` or `completion`) are those of an LLM node; `vision` if it shows images to the model.
    `guard` says when it works, null: always. A node of `aggregation` works once, over all rows.
    """

    name: str
    type: Type
    source: str = ""
    tool: str = ""
    inputs: Mapping[str, Value] = field(default_factory=dict)
    connection: str = ""
    api: str = "chat"
    vision: bool = False
    guard: Guard | None = None
    aggregation: bool = False

    @property
    def references(self) -> list[Reference]:
        """What it takes of the flow's inputs and of other nodes."""
        return [value for value in self.inputs.values() if isinstance(value, Reference)]


@dataclass(frozen=True)
class Input:
    """An input of the flow: prompt flow's name of its type, and its default where it has one."""

    name: str
    type: str
    required: bool
    default: Any = None


@dataclass(frozen=True)
class Graph:
    """A DAG. `nodes` stand in the order of their work, each in its default variant.

    `variants` has the nodes with more than one, the default first. `outputs` are references or
    literals. `environment` are variables that the flow sets where they are unset. `images` is how
    it gives images out, "" the usual way. `notes` are sentences about what prompt flow refuses.
    """

    name: str
    file: str
    inputs: tuple[Input, ...]
    outputs: Mapping[str, Value]
    nodes: tuple[Node, ...]
    variants: Mapping[str, Mapping[str, Node]]
    environment: Mapping[str, str] = field(default_factory=dict)
    images: str = ""
    notes: tuple[str, ...] = ()

    def node(self, name: str) -> Node:
        """The node of that name in its default variant."""
        return next(node for node in self.nodes if node.name == name)

    def versions(self, node: Node) -> Mapping[str, Node]:
        """The node in each of its variants; of one that has none, itself under ""."""
        return self.variants.get(node.name) or {"": node}

    def every(self) -> Iterator[Node]:
        """Each node in each variant."""
        for node in self.nodes:
            yield from self.versions(node).values()

    def users(self, name: str) -> list[Node]:
        """The nodes, in any variant, that take the output of this one."""
        wanted = ("node", name)
        return [n for n in self.every() if wanted in {(r.kind, r.name) for r in n.references}]


def read(flow: Flow, connections: Mapping[str, str]) -> Graph:
    """The graph of a DAG; `connections` are the types of those it may use, by name.

    Raises:
        UserError: nodes that depend on each other in a circle, or that need one that is not there.
    """
    document = flow.definition
    conditions = {name: node.get("activate") for name, node in flow.nodes.items()}
    versions: dict[str, dict[str, Node]] = {}
    for name in flow.nodes:
        names = flow.variants.get(name) or ("",)
        nodes = {v: _chosen(flow, name, v) for v in names}
        versions[name] = {v: _node(node, connections) for v, node in nodes.items()}
    order = list(_order(flow, versions, conditions))
    guards = _guards(order, versions, conditions)
    guarded = {
        name: {v: replace(node, guard=guards[name]) for v, node in found.items()}
        for name, found in versions.items()
    }
    return Graph(
        str(document.get("display_name") or document.get("name") or flow.folder.name),
        flow.file,
        tuple(_input(name, block) for name, block in (document.get("inputs") or {}).items()),
        {name: output(_block(b).get("reference")) for name, b in _outputs(document)},
        tuple(next(iter(guarded[name].values())) for name in order),
        {name: found for name, found in guarded.items() if len(found) > 1},
        environment(document),
        str(document.get("message_format") or ""),
        tuple(_odd_inputs(flow)),
    )


def environment(document: Mapping[str, Any]) -> dict[str, str]:
    """The variables that a flow sets, as texts."""
    given = document.get("environment_variables") or {}
    return {k: json.dumps(v) if isinstance(v, dict | list) else str(v) for k, v in given.items()}


def without_needless(graph: Graph, true_or_false: Collection[Reference]) -> Graph:
    """The graph without conditions that always hold, as of the node that joins two branches.

    `true_or_false` are references to what is one of both, and in every row.
    """

    def simple(node: Node) -> Node:
        return replace(node, guard=_needed(node.guard, true_or_false))

    return replace(
        graph,
        nodes=tuple(map(simple, graph.nodes)),
        variants={
            name: {variant: simple(node) for variant, node in versions.items()}
            for name, versions in graph.variants.items()
        },
    )


def _needed(guard: Guard | None, true_or_false: Collection[Reference]) -> Guard | None:
    """A condition without the parts of it that always hold; null where it does itself."""
    if guard is None or isinstance(guard, Is):
        return guard
    parts = [_needed(part, true_or_false) for part in guard.guards]
    kept = tuple(dict.fromkeys(part for part in parts if part is not None))
    if isinstance(guard, Any_) and (None in parts or _holds(kept, true_or_false)):
        return None
    return type(guard)(kept) if len(kept) > 1 else kept[0] if kept else None


def _holds(parts: Collection[Guard], true_or_false: Collection[Reference]) -> bool:
    """Whether one of these does in any case: what is true or false is asked for both."""
    asked = {(p.when, p.value) for p in parts if isinstance(p, Is) and isinstance(p.value, bool)}
    return any((when, not said) in asked for when, said in asked if when in true_or_false)


def value(given: Any) -> Value:
    """A reference where the whole text is one, else the literal itself."""
    found = _WHOLE.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        return given
    for prefix in ("inputs.", "flow."):
        if found[1].startswith(prefix):
            return Reference("input", found[1].removeprefix(prefix))
    name, _, rest = found[1].partition(".")
    return Reference("node", name, tuple(_steps(rest.removeprefix("output"))))


def output(given: Any) -> Value:
    """The same of an output of the flow: `${node.output[0]}` is the whole output there."""
    found = value(given)
    odd = isinstance(given, str) and _ODD.match(given)
    return replace(found, steps=()) if odd and isinstance(found, Reference) else found


def _odd_inputs(flow: Flow) -> Iterator[str]:
    for name, node in flow.nodes.items():
        for key, given in (node.get("inputs") or {}).items():
            if isinstance(given, str) and _ODD.match(given):
                yield f"node '{name}': inputs.{key}: prompt flow refuses {given}; here it works"


def _steps(text: str) -> Iterator[Step]:
    for found in _STEP.finditer(text):
        if found[1]:
            yield Step(found[1], dotted=True)
        else:
            yield Step(int(found[2]) if found[2].isdigit() else found[2][1:-1])


def _chosen(flow: Flow, name: str, variant: str) -> dict[str, Any]:
    """A node in one variant, which stands for all of what is listed under the name."""
    nodes: list[dict[str, Any]] = overlay(flow, {name: variant} if variant else {}, {})["nodes"]
    return next(node for node in nodes if node["name"] == name)


def _node(node: Mapping[str, Any], connections: Mapping[str, str]) -> Node:
    source = _block(node.get("source"))
    tool = str(source.get("tool") or "")
    # An empty literal is not passed, so that the tool's own default counts.
    given = {k: v for k, v in (node.get("inputs") or {}).items() if v is not None and v != ""}
    inputs = {k: value(v) for k, v in given.items()}
    made = Node(
        node["name"],
        _type(str(node.get("type")), tool),
        str(source.get("path") or ""),
        tool,
        inputs,
        str(node.get("connection") or ""),
        str(node.get("api") or "chat"),
        tool in VISION,
        aggregation=bool(node.get("aggregation")),
    )
    return _with_connection(made, connections) if made.type in ("llm", "embedding") else made


def _type(type_: str, tool: str) -> Type:
    if type_ in ("llm", "custom_llm") and (not tool or tool in (*VISION, LLM_TOOL)):
        return "llm"
    if tool == EMBEDDING:
        return "embedding"
    if tool or type_ not in ("prompt", "python"):
        return "tool"
    return "prompt" if type_ == "prompt" else "python"


def _with_connection(node: Node, connections: Mapping[str, str]) -> Node:
    """The node with its connection: of one that names none, the only one that leads to a model."""
    inputs = dict(node.inputs)
    named = str(node.connection or inputs.pop("connection", "") or "")
    inputs.pop("connection", None)
    models = [name for name, kind in connections.items() if kind in MODELS]
    chosen = named or (models[0] if len(models) == 1 else "")
    api = str(inputs.pop("api", "") or node.api)
    return replace(node, inputs=inputs, connection=chosen, api=api)


def _input(name: str, block: Any) -> Input:
    given = _block(block)
    # A default of null is none: prompt flow asks for the value.
    default = given.get("default")
    return Input(name, str(given.get("type", "string")), default is None, default)


def _outputs(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from (document.get("outputs") or {}).items()


def _block(block: Any) -> Mapping[str, Any]:
    return block if isinstance(block, Mapping) else {}


# ---- In which order, and when


def _order(
    flow: Flow, versions: Mapping[str, Mapping[str, Node]], conditions: Mapping[str, Any]
) -> Iterator[str]:
    """The nodes' names, each after those that it needs; as they are listed where it is free."""
    done: set[str] = set()
    waiting = {name: _needs(versions[name], conditions.get(name)) for name in versions}
    while waiting:
        ready = next((name for name, needs in waiting.items() if needs <= done), None)
        if ready is None:
            names = ", ".join(waiting)
            raise UserError(
                f"{flow.path}: nodes: {names}: they wait for each other, or for a node that is not "
                "there. `make validate` says which reference is wrong."
            )
        done.add(ready)
        del waiting[ready]
        yield ready


def _needs(versions: Mapping[str, Node], condition: Any) -> set[str]:
    references = [r for node in versions.values() for r in node.references]
    when = value(_block(condition).get("when"))
    if isinstance(when, Reference):
        references.append(when)
    return {reference.name for reference in references if reference.kind == "node"}


def _guards(
    order: list[str],
    versions: Mapping[str, Mapping[str, Node]],
    conditions: Mapping[str, Any],
) -> dict[str, Guard | None]:
    """When each node works.

    With `activate`: where the node of its condition worked and the condition holds. Without: where
    one at least of the nodes worked whose outputs it takes.
    """
    guards: dict[str, Guard | None] = {}
    for name in order:
        condition = _block(conditions.get(name))
        when = value(condition.get("when"))
        if isinstance(when, Reference):
            own = Is(when, condition.get("is"))
            before = guards.get(when.name) if when.kind == "node" else None
            guards[name] = All((before, own)) if before else own
        else:
            taken = [guards[needed] for needed in _needs(versions[name], None)]
            known = tuple(dict.fromkeys(guard for guard in taken if guard is not None))
            some = Any_(known) if len(known) > 1 else known[0] if known else None
            guards[name] = some if taken and None not in taken else None
        if next(iter(versions[name].values())).aggregation:
            guards[name] = None
    return guards
