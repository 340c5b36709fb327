"""The executors and edges of a workflow: one executor for each node.

A row's state goes from executor to executor, in the order of the nodes' work. A node that may be
left out is a case of a switch, which leads to the next node that works; so each executor waits for
one message. A fan-in would wait for all its sources, also for those that are left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmops.ejecting import python
from llmops.ejecting.expressions import Expressions
from llmops.ejecting.graph import Guard, Node
from llmops.ejecting.names import plain
from llmops.ejecting.routes import Route, routes
from llmops.ejecting.writer import Writer

START, END = "*start", "*end"
"""What stands for the executors that are no nodes, under names that no node has."""
NAMES = ("FunctionExecutor", "Workflow", "WorkflowBuilder", "WorkflowContext")
_WORK = re.compile(r"(\s*)(\S+ = )?(.+)")
_SEND = ("WorkflowContext[State]", "ctx.send_message(state)")
_YIELD = ("WorkflowContext[Never, State]", "ctx.yield_output(state)")


@dataclass(frozen=True)
class _Executor:
    """A node in the workflow: its id, and the variable that holds it."""

    id: str
    variable: str

    @property
    def function(self) -> str:
        """The name of the function that does its work."""
        return f"{self.variable}_executor"


class Workflow:
    """The workflow of a DAG's nodes; `writer` and `see` know them as fields of the state."""

    def __init__(self, writer: Writer, see: Expressions) -> None:
        self._writer, self._see = writer, see
        self._nodes = [node for node in writer.graph.nodes if not node.aggregation]
        self._routes = routes(self._nodes)
        self._executors = dict(_named([*(node.name for node in self._nodes), START, END]))
        self._conditions: dict[Guard, str] = {}

    @property
    def name(self) -> str:
        """The function that makes the workflow; an input may have the name already."""
        inputs = {i.name for i in self._writer.graph.inputs}
        return "make_workflow" if "workflow" in inputs else "workflow"

    @property
    def _starts_apart(self) -> bool:
        """Whether the first node may be left out, so that something has to come before it."""
        return bool(self._routes[0].cases)

    @property
    def _ends_apart(self) -> bool:
        """Whether the last node may be left out, so that something has to come after it."""
        return not self._nodes or self._nodes[-1].guard is not None

    def executors(self) -> Iterator[list[str]]:
        """The function of each node, as lines."""
        if self._starts_apart:
            yield self._function(START, '"""A row comes in."""', [], _SEND)
        for node in self._nodes:
            last = node is self._nodes[-1] and not self._ends_apart
            work = [_line(node, line) for line in python.work(self._writer, node, self._see)]
            told = f'"""The node {node.name}."""'
            yield self._function(node.name, told, work, _YIELD if last else _SEND)
        if self._ends_apart:
            yield self._function(END, '"""All is done that the row needs."""', [], _YIELD)

    def _function(self, name: str, told: str, work: list[str], then: tuple[str, str]) -> list[str]:
        context, send = then
        head = f"async def {self._executors[name].function}(state: State, ctx: {context}) -> None:"
        return [head, f"    {told}", *(f"    {line}" for line in work), f"    await {send}"]

    def write(self, executors: Iterable[list[str]]) -> None:
        """Add conditions, executors and what joins them to the module."""
        module = self._writer.module
        for name in NAMES:
            module.use(f"from agent_framework import {name}")
        module.use("from typing import Never")
        module.use("import asyncio")
        edges = list(self._edges())
        for function in executors:
            module.add(*function)
        first, last = [START] * self._starts_apart, [END] * self._ends_apart
        used = [self._executors[n] for n in (*first, *(n.name for n in self._nodes), *last)]
        made = [f'{e.variable} = FunctionExecutor({e.function}, id="{e.id}")' for e in used]
        module.add(
            f"def {self.name}() -> Workflow:",
            '    """A workflow for one row: it and its executors work on one at a time."""',
            *(f"    {line}" for line in made),
            f"    builder = WorkflowBuilder(start_executor={used[0].variable})",
            *(f"    {line}" for line in edges),
            "    return builder.build()",
        )

    def _edges(self) -> Iterator[str]:
        """The lines of the edges, those without a condition in chains."""
        chain: list[str] = []
        for route in self._routes[0 if self._starts_apart else 1 :]:
            if (
                route.source is not None
                and route.source is self._nodes[-1]
                and not self._ends_apart
            ):
                break
            source, other = self._variable(route.source, START), self._variable(route.other, END)
            if route.cases or (chain and chain[-1] != source):
                yield from _chained(chain)
                chain = []
            if route.cases:
                yield self._switch(route, source, other)
            else:
                chain = [*(chain or [source]), other]
        yield from _chained(chain)

    def _switch(self, route: Route, source: str, other: str) -> str:
        for name in ("Case", "Default"):
            self._writer.module.use(f"from agent_framework import {name}")
        cases = [
            f"Case(condition={self._condition(node)}, target={self._variable(node, END)})"
            for node in route.cases
        ]
        given = ", ".join([*cases, f"Default(target={other})"])
        return f"builder.add_switch_case_edge_group({source}, [{given}])"

    def _variable(self, node: Node | None, without: str) -> str:
        return self._executors[node.name if node else without].variable

    def _condition(self, node: Node) -> str:
        """The function that says whether a node works; nodes with the same guard share it."""
        guard = node.guard
        assert guard is not None
        if guard not in self._conditions:
            self._conditions[guard] = f"needs_{self._executors[node.name].variable}"
            self._writer.module.add(
                f"def {self._conditions[guard]}(state: State) -> bool:",
                f'    """Whether a row needs the node {node.name}."""',
                f"    return {self._see.condition(guard)}",
            )
        return self._conditions[guard]


def _named(names: Iterable[str]) -> Iterator[tuple[str, _Executor]]:
    """Each with a variable of its own in the function that makes the workflow."""
    seen = {"builder"}
    for name in names:
        variable = plain(name.strip("*")).lower()
        while variable in seen or variable.startswith("needs_"):
            variable += "_"
        seen.add(variable)
        yield name, _Executor(variable if name in (START, END) else name, variable)


def _chained(chain: list[str]) -> Iterator[str]:
    if len(chain) == 2:
        yield f"builder.add_edge({chain[0]}, {chain[1]})"
    elif chain:
        yield f"builder.add_chain([{', '.join(chain)}])"


# ---- Work that must not hold up the other rows


def _line(node: Node, line: str) -> str:
    """A line of a node's work as its executor has it."""
    found = _WORK.fullmatch(line)
    if found is None or re.match(r"\s*(if|elif|else|raise)\b", line):
        return line
    return f"{found[1]}{found[2] or ''}{awaited(found[3], node.type)}"


def awaited(text: str, type_: str) -> str:
    """The expression of a node's work, awaited; what is no coroutine works in a thread."""
    if type_ in ("prompt", "tool") or re.match(r"\w+_to_fill\(", text):
        return text
    if type_ == "llm":
        return f"await {text}"
    if type_ == "embedding":
        return f"(await {text.removesuffix('.data[0].embedding')}).data[0].embedding"
    if text.startswith("asyncio.run("):
        return f"await {text.removeprefix('asyncio.run(')[:-1]}"
    tree = ast.parse(text, mode="eval").body
    if not isinstance(tree, ast.Call):
        return text
    function = ast.get_source_segment(text, tree.func) or ""
    given = text[len(function) + 1 : -1]
    return f"await asyncio.to_thread({function}{', ' if given else ''}{given})"
