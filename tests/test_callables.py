"""What a plain Python flow may return: outputs that JSON keeps, and what only `aggregate` sees."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from llmops.running.runners import CallableRunner
from llmops.runs import Row

Json = dict[str, Any]
Load = Callable[[str], CallableRunner]
NUMBERS = itertools.count()
HEAD = """
import asyncio, dataclasses, datetime, decimal, enum, pathlib
import numpy, pydantic


@dataclasses.dataclass
class Place:
    name: str
    near: "list[Place]" = dataclasses.field(default_factory=list)


class Model(pydantic.BaseModel):
    day: datetime.date


class Colour(enum.Enum):
    RED = "red"


async def words():
    for word in ("a", "b"):
        await asyncio.sleep(0)
        yield word


"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(code): the runner of `run` in it."""

    def load(code: str) -> CallableRunner:
        name = f"callable_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(HEAD + code)
        monkeypatch.syspath_prepend(tmp_path)
        return CallableRunner({"entry": f"{name}:run"})

    return load


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("Place('a', [Place('b')])", {"name": "a", "near": [{"name": "b", "near": []}]}),
        ("[{'at': Model(day='2026-11-20')}]", [{"at": {"day": "2026-11-20"}}]),
        ("(Colour.RED, decimal.Decimal('0.10'), pathlib.Path('x'))", ["red", "0.10", "x"]),
        ("datetime.datetime(2026, 11, 20)", "2026-11-20T00:00:00"),
        ("{'n': numpy.int64(3), 'v': numpy.zeros(2)}", {"n": 3, "v": [0.0, 0.0]}),
        ("words()", "ab"),
        ("(word for word in 'ab')", "ab"),
    ],
)
@pytest.mark.parametrize("how", ["def", "async def"])
def test_an_output_becomes_json(load: Load, how: str, value: str, kept: Any) -> None:
    assert numpy
    runner = load(f"{how} run():\n    return {{'x': {value}}}\n")
    assert runner.run({}, 0) == ({"x": kept}, {})
    streamed: list[Json] = []
    rest = runner.stream({}, 0, streamed.append)
    assert {**{"x": "".join(piece["x"] for piece in streamed)}, **rest} == {"x": kept}


@pytest.mark.parametrize(
    ("value", "kept"), [("{1, 2}", "{1, 2}"), ("b'x'", "b'x'"), ("{'a': {1}}", {"a": "{1}"})]
)
def test_what_json_has_not_becomes_its_text(load: Load, value: str, kept: Any) -> None:
    runner = load(f"def run():\n    return {{'x': {value}}}\n")
    assert runner.run({}, 0) == ({"x": kept}, {})


def test_what_json_cannot_hold_is_named(load: Load) -> None:
    runner = load("def run():\n    x = []\n    x.append(x)\n    return {'x': x}\n")
    with pytest.raises(ValueError, match="output 'x': Circular"):
        runner.run({}, 0)


def test_hidden_values_are_for_the_aggregation(load: Load) -> None:
    code = """
def run(n):
    return {"double": 2 * n, "_n": n, "_set": [n]}


def aggregate(rows):
    assert all(set(row) == {"double", "_n", "_set"} for row in rows)
    return {"n": sum(row["_n"] for row in rows)}
"""
    runner = load(code)
    rows = []
    for n in (1, 2, 3):
        outputs, more = runner.run({"n": n}, n)
        assert (outputs, more) == ({"double": 2 * n}, {"_n": n, "_set": [n]})
        rows.append(Row(n, {"n": n}, outputs, aggregation=more))
    found = runner.aggregate(rows)
    assert found and found.values == {"n": 6} and found.again([0, 0]) == {"n": 2}
    assert runner.stream({"n": 1}, 0, lambda _: None) == {"double": 2}
