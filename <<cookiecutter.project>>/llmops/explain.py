"""Says what is wrong with a document: pydantic's errors as sentences for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

SHOWN = 60
"""Characters of a value that a message quotes."""
PLAIN = {
    "missing": "missing. Add it",
    "string_type": "expected a text",
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "too_short": "empty. List at least one",
    "string_too_short": "empty. Fill it in",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected {ge:g} or more",
    "less_than_equal": "expected {le:g} or less",
}
SELF_EVIDENT = ("missing", "too_short", "string_too_short", "value_error")
SECRET = {"connections", "ENVIRONMENT_VARIABLES"}
"""Blocks whose values may be secrets."""


def sentence(error: ErrorDetails, document: Any, model: type[BaseModel]) -> str:
    """One error of `model` as `datasets[ner].source: expected a text, found 5.`

    Values inside `connections` and `ENVIRONMENT_VARIABLES` are not shown: they may be secrets.
    """
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        choices = quoted(_keys(loc, model))
        return _at(loc[:-1], document) + f"unknown key '{loc[-1]}' (expected one of {choices})."
    text = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if error["type"] in PLAIN:
        text = PLAIN[error["type"]].format(**error.get("ctx", {}))
    if not SECRET & set(loc) and error["type"] not in SELF_EVIDENT:
        text += f", found {shown(error['input'])}"
    return _at(loc, document) + text + "."


def shown(value: Any) -> str:
    """A value as it is written in a file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def quoted(words: Iterable[str]) -> str:
    """The choices of a message."""
    return ", ".join(f"'{word}'" for word in sorted(set(words))) or "none"


def _keys(loc: tuple[int | str, ...], model: type[BaseModel]) -> Iterable[str]:
    """The keys that the block around an unknown key may have."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        for inner in _parts(field.annotation) if field else ():
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                model = inner
    return model.model_fields


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _at(loc: tuple[int | str, ...], document: Any) -> str:
    """`datasets[ner_training].source: ` instead of `datasets.0.source`."""
    text = ""
    for part in loc:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            document = None
        if isinstance(part, int):
            name = document.get("name") if isinstance(document, Mapping) else None
            text += f"[{name or part}]"
        else:
            text += f".{part}" if text else part
    return f"{text}: " if text else ""
