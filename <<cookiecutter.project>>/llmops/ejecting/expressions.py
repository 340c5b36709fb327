"""References, conditions and literals of a DAG as Python expressions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from llmops.ejecting.graph import All, Any_, Graph, Guard, Is, Reference, Step, Value
from llmops.ejecting.names import Names

LONGEST = 72
"""Characters of a text that stand in one line."""


class Expressions:
    """What a node of a row sees: inputs and nodes are variables.

    `fields` are the nodes whose outputs have attributes instead of keys, `true_or_false` those
    that give nothing else.
    """

    def __init__(
        self,
        graph: Graph,
        names: Names,
        fields: Collection[str] = (),
        true_or_false: Collection[str] = (),
    ) -> None:
        self.graph, self.names = graph, names
        self._fields, self._true_or_false = fields, true_or_false

    def reference(self, reference: Reference, user: Guard | None = None) -> str:
        """What a reference stands for; null where its node was left out, which `user` may rule out.

        `user` is the guard of the node that takes it.
        """
        text = self.plain(reference)
        guard = self.guard(reference)
        if reference.steps and guard is not None and not implies(user, guard):
            return f"({text} if {self.condition(guard)} else None)"
        return text

    def plain(self, reference: Reference) -> str:
        """The same where its node has worked."""
        if reference.kind == "input":
            return self.names.inputs.get(reference.name, reference.name)
        text = self.names.nodes[reference.name]
        for at, step in enumerate(reference.steps):
            fields = at == 0 and reference.name in self._fields and step.dotted
            text += f".{step.key}" if fields else _item(step)
        return text

    def guard(self, reference: Reference) -> Guard | None:
        """When what is referred to has a value."""
        return self.graph.node(reference.name).guard if reference.kind == "node" else None

    def value(self, value: Value, user: Guard | None = None) -> str:
        """A reference or a literal."""
        return self.reference(value, user) if isinstance(value, Reference) else literal(value)

    def condition(self, guard: Guard) -> str:
        """When a node works, as a condition."""
        if isinstance(guard, Is):
            return self._equality(guard)
        word = " and " if isinstance(guard, All) else " or "
        parts = [self.condition(part) for part in guard.guards]
        inner = [isinstance(part, Any_ | All) for part in guard.guards]
        return word.join(f"({p})" if i else p for p, i in zip(parts, inner, strict=True))

    def _equality(self, guard: Is) -> str:
        text, value = self.plain(guard.when), guard.value
        if isinstance(value, bool) and self._is_true_or_false(guard.when):
            return text if value else f"not {text}"
        # Not `is True`: prompt flow asks whether it is equal, and 1 is.
        return f"{text} is None" if value is None else f"{text} == {literal(value)}"

    def _is_true_or_false(self, reference: Reference) -> bool:
        if reference.kind == "node":
            return reference.name in self._true_or_false and not reference.steps
        return any(i.name == reference.name and i.type == "bool" for i in self.graph.inputs)


class Columns(Expressions):
    """What a node of the aggregation sees: of each row's outputs a list.

    `outputs` are those of the flow; what else is needed comes to `more`, as `keep` writes it, under
    a name that begins with an underscore. `wrap` is a function that each value goes through, ""
    without.
    """

    def __init__(
        self,
        row: Expressions,
        outputs: Mapping[str, Value],
        keep: Callable[[Reference], str],
        wrap: str = "",
    ) -> None:
        super().__init__(row.graph, row.names)
        self._keep, self._wrap = keep, wrap
        self._known = {value: name for name, value in outputs.items() if _is_reference(value)}
        self.more: dict[str, str] = {}

    def plain(self, reference: Reference) -> str:
        """See Expressions."""
        if reference.kind == "node" and self.graph.node(reference.name).aggregation:
            return super().plain(reference)
        key = self._known.get(reference) or self._kept(reference)
        item = f'row["{key}"]'
        return f"[{f'{self._wrap}({item})' if self._wrap else item} for row in rows]"

    def guard(self, reference: Reference) -> Guard | None:
        """A row says itself what was left out in it."""
        return None

    def _kept(self, reference: Reference) -> str:
        words = [reference.name, *(str(step.key) for step in reference.steps)]
        key, text = "_" + "_".join(words), self._keep(reference)
        while self.more.get(key, text) != text:
            key += "_"
        self.more[key] = text
        return key


def implies(known: Guard | None, wanted: Guard) -> bool:
    """Whether a guard that holds says that another one does."""
    if known is None:
        return False
    return known == wanted or (
        isinstance(known, All) and any(implies(part, wanted) for part in known.guards)
    )


def literal(value: Any) -> str:
    """A value of JSON as Python writes it; a long text in several pieces."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
    return repr(value)


def _text(text: str) -> str:
    if len(repr(text)) <= LONGEST:
        return repr(text)
    pieces, line = [], ""
    for word in text.replace("\n", "\n\0").replace(" ", " \0").split("\0"):
        if line and (len(repr(line + word)) > LONGEST or line.endswith("\n")):
            pieces.append(line)
            line = ""
        line += word
    return f"({' '.join(map(repr, [*pieces, line]))})"


def _item(step: Step) -> str:
    return f"[{step.key}]" if isinstance(step.key, int) else f"[{step.key!r}]"


def _is_reference(value: Value) -> bool:
    return isinstance(value, Reference)
