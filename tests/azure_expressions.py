"""Azure Pipelines' expressions, as far as this template's pipelines use them.

Names and meaning follow Azure's documentation: texts compare without regard to case, what is not
there is an empty text, and `${{ }}` is evaluated when the file is read, `$[ ]` when a job starts.
Whatever else occurs fails, so that no pipeline passes by way of something that is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w-]*)|(?P<mark>[()\[\],.]))"
)
COMPILED = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
Scope = Mapping[str, Any]


class UnknownError(Exception):
    """A pipeline uses something that this runner does not know, or Azure would refuse."""


def _same(one: Any, other: Any) -> bool:
    return _text(one).casefold() == _text(other).casefold()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return "" if value is None else str(value)


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else bool(_text(value))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *given: all(map(_truth, given)),
    "or": lambda *given: any(map(_truth, given)),
    "not": lambda one: not _truth(one),
    "eq": _same,
    "ne": lambda one, other: not _same(one, other),
    "in": lambda one, *others: any(_same(one, other) for other in others),
    "startswith": lambda text, start: _text(text).casefold().startswith(_text(start).casefold()),
    "coalesce": lambda *given: next((one for one in given if _text(one)), ""),
    "replace": lambda text, old, new: _text(text).replace(_text(old), _text(new)),
    "format": lambda pattern, *given: pattern.format(*map(_text, given)),
}


def evaluate(source: str, scope: Scope) -> Any:
    """The value of an expression; `scope` holds objects and functions such as `succeeded`."""
    tokens, at = [], 0
    while source[at:].strip():
        if (found := TOKEN.match(source, at)) is None:
            raise UnknownError(f"cannot read {source!r} from {source[at:]!r} on")
        tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
        at = found.end()
    value, rest = _value(tokens, scope)
    if rest:
        raise UnknownError(f"cannot read {source!r}: {rest[0][1]!r} is too much")
    return value


Tokens = list[tuple[str, str]]


def _value(tokens: Tokens, scope: Scope) -> tuple[Any, Tokens]:
    if not tokens:
        raise UnknownError("an expression ends too soon")
    (kind, word), rest = tokens[0], tokens[1:]
    if kind == "text":
        return word[1:-1].replace("''", "'"), rest
    if kind != "name":
        raise UnknownError(f"an expression begins with {word!r}")
    if rest and rest[0][1] == "(":
        return _call(word.lower(), rest[1:], scope)
    if word.lower() in ("true", "false"):
        return word.lower() == "true", rest
    if word not in scope or callable(scope[word]):
        raise UnknownError(f"there is no {word!r} here")
    return _members(scope[word], rest, scope)


def _members(value: Any, rest: Tokens, scope: Scope) -> tuple[Any, Tokens]:
    while rest and rest[0][1] in ("[", "."):
        if rest[0][1] == ".":
            key, rest = rest[1][1], rest[2:]
        else:
            key, rest = _value(rest[1:], scope)
            rest = _past("]", rest)
        value = value.get(key) if isinstance(value, Mapping) else None
    return value, rest


def _call(name: str, rest: Tokens, scope: Scope) -> tuple[Any, Tokens]:
    function = FUNCTIONS.get(name) or next(
        (known for word, known in scope.items() if word.lower() == name and callable(known)), None
    )
    if function is None:
        raise UnknownError(f"there is no function {name!r} here")
    given: list[Any] = []
    while rest and rest[0][1] != ")":
        value, rest = _value(rest, scope)
        given.append(value)
        if rest and rest[0][1] == ",":
            rest = rest[1:]
    return function(*given), _past(")", rest)


def _past(mark: str, rest: Tokens) -> Tokens:
    if not rest or rest[0][1] != mark:
        raise UnknownError(f"{mark!r} is missing")
    return rest[1:]


def expand(node: Any, scope: Scope) -> Any:
    """What `${{ }}` makes of a part of a file: texts, `if` `elseif` `else`, and `insert`."""
    if isinstance(node, str):
        return _expand_text(node, scope)
    if isinstance(node, list):
        return [one for item in node for one in _expand_item(item, scope)]
    return _expand_object(node, scope) if isinstance(node, dict) else node


def _expand_text(text: str, scope: Scope) -> Any:
    if whole := COMPILED.fullmatch(text.strip()):
        return evaluate(whole[1], scope)
    return COMPILED.sub(lambda found: _text(evaluate(found[1], scope)), text)


def _expand_item(item: Any, scope: Scope) -> list[Any]:
    if isinstance(item, dict) and len(item) == 1 and COMPILED.fullmatch(next(iter(item)).strip()):
        chosen = _chosen(item, scope)
        return [one for inner in chosen for one in _expand_item(inner, scope)]
    return [expand(item, scope)]


def _chosen(item: dict[str, Any], scope: Scope) -> list[Any]:
    (key, value), *_ = item.items()
    word, _, condition = COMPILED.fullmatch(key.strip())[1].strip().partition(" ")  # type: ignore[index]
    if word != "if" or not isinstance(value, list):
        raise UnknownError(f"cannot read {key!r} in a list")
    return value if _truth(evaluate(condition, scope)) else []


def _expand_object(node: dict[str, Any], scope: Scope) -> dict[str, Any]:
    made: dict[str, Any] = {}
    taken = False  # whether a branch of the chain of if, elseif and else was
    for key, value in node.items():
        found = COMPILED.fullmatch(key.strip())
        word, _, condition = found[1].strip().partition(" ") if found else ("", "", "")
        if word == "insert":
            made |= expand(value, scope)
        elif word in ("if", "elseif", "else"):
            taken = taken and word != "if"
            if not taken and (word == "else" or _truth(evaluate(condition, scope))):
                made |= expand(value, scope)
                taken = True
        else:
            made[_expand_text(key, scope)] = expand(value, scope)
    return made


def holds(condition: str, scope: Scope) -> bool:
    """Whether a condition holds."""
    return _truth(evaluate(condition, scope))
