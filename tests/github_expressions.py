"""The expressions of GitHub's workflows, as far as ours use them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


class Expression:
    """The value of one: `||`, `&&`, `!`, `==`, `!=`, parentheses, properties and calls."""

    TOKENS = re.compile(r"\s*(\|\||&&|==|!=|[!(),.]|'(?:[^']|'')*'|[\w-]+)")

    def __init__(self, source: str, contexts: Json, functions: Json) -> None:
        self._contexts, self._functions = contexts, functions
        self._left = list(self._tokens(source.strip()))
        self.value = self._or()
        assert not self._left, f"not understood: {self._left} in {source}"

    def _tokens(self, source: str) -> Iterator[str]:
        at = 0
        while at < len(source):
            found = self.TOKENS.match(source, at)
            assert found, f"not understood: {source[at:]}"
            yield found[1]
            at = found.end()

    def _take(self, *wanted: str) -> str:
        return self._left.pop(0) if self._left and self._left[0] in wanted else ""

    def _or(self) -> Any:
        value = self._and()
        while self._take("||"):
            other = self._and()
            value = value or other
        return value

    def _and(self) -> Any:
        value = self._equal()
        while self._take("&&"):
            other = self._equal()
            value = value and other
        return value

    def _equal(self) -> Any:
        value = self._not()
        while sign := self._take("==", "!="):
            value = (shown(value) == shown(self._not())) == (sign == "==")
        return value

    def _not(self) -> Any:
        return not self._not() if self._take("!") else self._atom()

    def _atom(self) -> Any:
        if self._take("("):
            value = self._or()
            assert self._take(")")
            return value
        name = self._left.pop(0)
        if name.startswith("'"):
            return name[1:-1].replace("''", "'")
        if name in ("true", "false"):
            return name == "true"
        if self._take("("):
            return self._functions[name](*self._arguments())
        value: Any = self._contexts[name]
        while self._take("."):
            value = (value or {}).get(self._left.pop(0))
        return value

    def _arguments(self) -> Iterator[Any]:
        while not self._take(")"):
            yield self._or()
            self._take(",")


def bare(condition: str) -> str:
    """A condition without the `${{ }}` that it may have around it."""
    found = re.fullmatch(r"\s*\$\{\{(.*)\}\}\s*", condition)
    return found[1] if found else condition


def shown(value: Any) -> str:
    """A value as text."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
