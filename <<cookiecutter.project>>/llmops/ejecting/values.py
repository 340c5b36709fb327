"""Inputs as prompt flow took them: by the type that the flow declares."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "double": (float,),
    "bool": (bool,),
    "list": (list,),
    "object": (dict, list, int, float, bool, type(None)),
}
_CONVERSIONS = {
    "string": "str({0})",
    "int": "int({0})",
    "double": "float({0})",
    "bool": '{0} if isinstance({0}, bool) else {0}.lower() == "true"',
    "list": "json.loads({0}) if isinstance({0}, str) else {0}",
    "object": "json.loads({0}) if isinstance({0}, str) else {0}",
}
TEXT_OR_JSON = "json_or_text({0})"
"""Of an object whose values are texts too: the helper that reads those that are JSON."""


def coerced(value: Any, type_: str) -> Any:
    """A literal read as a type; as it is where it cannot be."""
    try:
        if type_ == "int":
            return int(value)
        if type_ == "double":
            return float(value)
        if type_ == "string":
            return str(value)
        if type_ == "bool":
            return value if isinstance(value, bool) else str(value).lower() == "true"
        if type_ in ("list", "object") and isinstance(value, str):
            return json.loads(value)
    except (TypeError, ValueError):
        pass
    return value


def conversion(name: str, type_: str, values: Iterable[Any]) -> str:
    """The expression that makes an input of these values the type's; "" where each is already."""
    wanted, values = _PYTHON.get(type_), list(values)
    if wanted is None or all(_fits(value, type_, wanted) for value in values):
        return ""
    if type_ == "object" and any(coerced(v, type_) is v for v in values if isinstance(v, str)):
        return TEXT_OR_JSON.format(name)
    return _CONVERSIONS[type_].format(name)


def _fits(value: Any, type_: str, wanted: tuple[type, ...]) -> bool:
    if isinstance(value, bool) and type_ in ("int", "double"):
        return False
    return isinstance(value, wanted)
