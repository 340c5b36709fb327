"""Differences of requests and outputs in the lines of a unified diff: - is A, + is B."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmops.recordings import Json
from llmops.recordings.miss import places

LINES, LONGEST = 60, 400
"""Lines of one difference, and characters of a line."""
_SENTENCE = re.compile(r"(?<=[.!?;]) +")


def requests(a: Sequence[Json], b: Sequence[Json]) -> list[str]:
    """How requests that only A sent differ from those that only B sent, the most alike together."""
    left, lines = list(b), list[str]()
    for one in a:
        other = min(left, key=lambda it: _distance(one, it), default=None)
        if other is None:
            lines += ["A alone asks:", *_changed(_flat(one), {})]
        else:
            left.remove(other)
            lines += _changed(_flat(one), _flat(other))
    for other in left:
        lines += ["B alone asks:", *_changed({}, _flat(other))]
    return _cut(lines)


def results(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """How the outputs of a row differ, or why it failed."""
    return _cut(list(_changed(a, b)))


def _flat(request: Json) -> Json:
    return {"path": request["path"], **places(request["request"])}


def _distance(one: Json, other: Json) -> tuple[int, int]:
    """How many places differ, and how many characters of what stands there."""
    a, b = _flat(one), _flat(other)
    differ = [place for place in a | b if a.get(place) != b.get(place)]
    return len(differ), sum(abs(len(str(a.get(it))) - len(str(b.get(it)))) for it in differ)


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for place in {**a, **b}:
        if place not in a or place not in b or not _same(a[place], b[place]):
            yield from _contrast(place, _lines(place, a), _lines(place, b))


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _contrast(place: str, a: list[str], b: list[str]) -> Iterator[str]:
    if max(len(a), len(b)) < 2:
        a, b = _from_difference(a, b)
        yield from (f"-{place}: {line}" for line in a)
        yield from (f"+{place}: {line}" for line in b)
        return
    yield f"@@ {place} @@"
    for line in list(difflib.unified_diff(a, b, lineterm="", n=1))[2:]:
        if not line.startswith("@@"):
            yield line


def _from_difference(a: list[str], b: list[str]) -> tuple[list[str], list[str]]:
    """Two long lines without most of what they begin with alike."""
    pairs = enumerate(zip(*a, *b, strict=False)) if a and b else ()
    same = next((at for at, (one, other) in pairs if one != other), 0)
    start = same - LONGEST // 4
    if start <= 0 or max(map(len, (*a, *b))) <= LONGEST:
        return a, b
    return [f"…{line[start:]}" for line in a], [f"…{line[start:]}" for line in b]


def _lines(place: str, side: Mapping[str, Any]) -> list[str]:
    """A value as lines: a text by lines and sentences, anything else as JSON."""
    if place not in side:
        return []
    value = side[place]
    if not isinstance(value, str):
        whole = json.dumps(value, ensure_ascii=False, sort_keys=True)
        if len(whole) <= LONGEST // 2:
            return [whole]
        value = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)
    parts = (_SENTENCE.split(line) for line in value.splitlines())
    return [part for line in parts for part in line] or [""]


def _cut(lines: list[str]) -> list[str]:
    short = [line if len(line) <= LONGEST else line[: LONGEST - 1] + "…" for line in lines]
    left = len(short) - LINES
    return [*short[:LINES], f"… {left} more lines"] if left > 0 else short
