"""Where a row goes on from each node of a DAG: the next node in order that works on it.

The nodes stand in one line, in the order of their work. From a node the row goes to the first one
after it whose guard holds; of those that a switch asks about, none is left that cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmops.ejecting.graph import All, Any_, Guard, Is, Node


@dataclass(frozen=True)
class Route:
    """From a node, null for the beginning, on: to the first of `cases` whose guard holds.

    `other` is where it goes where none does; null is the end.
    """

    source: Node | None
    cases: tuple[Node, ...]
    other: Node | None


def routes(nodes: Sequence[Node]) -> list[Route]:
    """The routes of nodes in the order of their work; the first is that of the beginning."""
    return [_route(nodes, at) for at in range(-1, len(nodes))]


def _route(nodes: Sequence[Node], at: int) -> Route:
    source = nodes[at] if at >= 0 else None
    known = source.guard if source else None
    cases: list[Node] = []
    for node in nodes[at + 1 :]:
        if node.guard is None or (known and _implies(known, node.guard)):
            return Route(source, tuple(cases), node)
        reached = not any(case.guard and _implies(node.guard, case.guard) for case in cases)
        if reached and not (known and _excludes(known, node.guard)):
            cases.append(node)
    return Route(source, tuple(cases), None)


def _implies(known: Guard, wanted: Guard) -> bool:
    """Whether one guard that holds says that another one does."""
    if known == wanted:
        return True
    if isinstance(known, Any_):
        return all(_implies(part, wanted) for part in known.guards)
    if isinstance(wanted, Any_):
        return any(_implies(known, part) for part in wanted.guards)
    if isinstance(wanted, All):
        return all(_implies(known, part) for part in wanted.guards)
    return isinstance(known, All) and any(_implies(part, wanted) for part in known.guards)


def _excludes(known: Guard, wanted: Guard) -> bool:
    """Whether one guard that holds says that another one does not."""
    if isinstance(known, Any_):
        return all(_excludes(part, wanted) for part in known.guards)
    if isinstance(wanted, Any_):
        return all(_excludes(known, part) for part in wanted.guards)
    return any(
        one.when == other.when and one.value != other.value
        for one in _certain(known)
        for other in _certain(wanted)
    )


def _certain(guard: Guard) -> Iterator[Is]:
    """The equalities that hold wherever the guard does."""
    if isinstance(guard, Is):
        yield guard
    elif isinstance(guard, All):
        for part in guard.guards:
            yield from _certain(part)
