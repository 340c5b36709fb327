"""A flow's inputs and outputs with their types, read from its files, and requests checked by them.

Types are those of JSON Schema; an empty one takes any value.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmops import code
from llmops.flows import Flow, front_matter

# prompt flow's names, JSON Schema's and Python's.
_TYPES = {
    **dict.fromkeys(("string", "str", "secret", "file_path"), "string"),
    **dict.fromkeys(("int", "integer"), "integer"),
    **dict.fromkeys(("double", "float", "number"), "number"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
    **dict.fromkeys(("list", "array", "List", "Sequence", "tuple"), "array"),
    **dict.fromkeys(("object", "dict", "Dict", "Mapping"), "object"),
}
_PYTHON = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
_ROLES = {"is_chat_input": "input", "is_chat_history": "history", "is_chat_output": "output"}
_SAID = {str: "string", bool: "boolean", list: "array", dict: "object", type(None): "null"}
MOST_NAMED = 10
"""Unknown inputs that a message names."""


@dataclass(frozen=True)
class Value:
    """An input or output; `role` is what it is in a chat: input, history, output, or nothing."""

    type: str = ""
    required: bool = True
    default: Any = None
    description: str = ""
    role: str = ""


@dataclass(frozen=True)
class Signature:
    """What a flow takes and gives; `more_inputs`: any other input too; outputs may be unknown."""

    inputs: dict[str, Value]
    outputs: dict[str, Value] = field(default_factory=dict)
    more_inputs: bool = False

    @property
    def chat(self) -> dict[str, str]:
        """The names of a chat flow's input, history and output by their role; else empty."""
        every = {**self.outputs, **self.inputs}
        found = {value.role: name for name, value in every.items() if value.role}
        return found if "input" in found else {}


def read(flow: Flow) -> Signature:
    """The signature that a flow's files tell; what they do not tell has no type."""
    said = _said(flow)
    hinted = _hints(flow)
    inputs = {name: _value(said["inputs"].get(name), hinted.get(name)) for name in flow.inputs}
    inputs = {
        name: replace(
            value, required=flow.inputs[name], default=flow.defaults.get(name, value.default)
        )
        for name, value in inputs.items()
    }
    outputs = {name: _value(said["outputs"].get(name), None) for name in flow.outputs or ()}
    return Signature(inputs, outputs, flow.more_inputs)


def problems(signature: Signature, request: Mapping[str, Any]) -> list[str]:
    """What is wrong with a request's inputs, one sentence each; empty if nothing is."""
    return [*_missing(signature, request), *_wrong(signature, request), *_extra(signature, request)]


def _missing(signature: Signature, request: Mapping[str, Any]) -> Iterator[str]:
    for name, value in signature.inputs.items():
        if value.required and name not in request:
            wanted = f" ({value.type})" if value.type else ""
            yield f"missing input '{name}'{wanted}"


def _wrong(signature: Signature, request: Mapping[str, Any]) -> Iterator[str]:
    for name, given in request.items():
        value = signature.inputs.get(name)
        if value is not None and not fits(value, given):
            yield f"input '{name}' is of type {_kind(given)}, expected {value.type or 'a value'}"


def _extra(signature: Signature, request: Mapping[str, Any]) -> Iterator[str]:
    extra = [name for name in request if name not in signature.inputs]
    if extra and not signature.more_inputs:
        named = ", ".join(f"'{name[:80]}'" for name in extra[:MOST_NAMED])
        more = f" and {len(extra) - MOST_NAMED} more" if len(extra) > MOST_NAMED else ""
        known = ", ".join(signature.inputs) or "none"
        yield f"unknown input {named}{more} (the flow's inputs: {known})"


def fits(value: Value, given: Any) -> bool:
    """Whether a JSON value is of the type; null only where the input may be left out."""
    if given is None:
        return not value.required
    if not value.type:
        return True
    if value.type == "integer" and isinstance(given, float):
        return given.is_integer()
    if isinstance(given, bool) and value.type != "boolean":
        return False
    return isinstance(given, _PYTHON[value.type])  # type: ignore[arg-type]


def settled(signature: Signature, request: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs for the flow: null counts as left out, 2.0 is a whole number where one is due."""
    whole = {n for n, value in signature.inputs.items() if value.type == "integer"}
    return {
        name: int(given) if name in whole and isinstance(given, float) else given
        for name, given in request.items()
        if given is not None or name not in signature.inputs
    }


def _kind(given: Any) -> str:
    if isinstance(given, float) and math.isfinite(given):
        return "number"
    return _SAID.get(type(given), "integer" if isinstance(given, int) else type(given).__name__)


def _said(flow: Flow) -> dict[str, Mapping[str, Any]]:
    """The blocks `inputs` and `outputs` of the flow's own file."""
    document: Mapping[str, Any] = flow.definition
    if flow.kind == "prompty":
        text = flow.path.read_text(encoding="utf-8-sig")
        document = front_matter(text)
    return {key: document.get(key) or {} for key in ("inputs", "outputs")}


def _value(said: Any, hinted: Value | None) -> Value:
    """An entry of the file: `{type: …, default: …}`, or in a prompty the type alone."""
    block = said if isinstance(said, Mapping) else {"type": said}
    found = hinted or Value()
    roles = [role for key, role in _ROLES.items() if block.get(key)]
    return Value(
        _TYPES.get(str(block.get("type")), "") or found.type,
        default=block.get("default", found.default),
        description=str(block.get("description") or ""),
        role=roles[0] if roles else "",
    )


def _hints(flow: Flow) -> dict[str, Value]:
    """What the signature of a flow's function says of its parameters."""
    module, _, name = flow.entry.partition(":")
    if not name:
        return {}
    source = flow.folder / f"{module.replace('.', '/')}.py"
    tree = ast.parse(source.read_text(encoding="utf-8-sig"))
    function = code.called(tree, name)
    return {
        argument.arg: Value(_annotated(argument.annotation), default=_literal(default))
        for argument, default in (code.arguments(function) if function else ())
    }


def _annotated(node: ast.expr | None) -> str:
    """The type of a hint such as `str`, `list[int]` or `"dict"`; of others nothing is known."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _TYPES.get(node.value.partition("[")[0], "")
    if isinstance(node, ast.Subscript):
        return _annotated(node.value)
    return _TYPES.get(node.id, "") if isinstance(node, ast.Name) else ""


def _literal(node: ast.expr | None) -> Any:
    """A default as JSON has it, if it is that simple."""
    try:
        return json.loads(json.dumps(code.literal(node)))
    except (ValueError, TypeError):
        return None
