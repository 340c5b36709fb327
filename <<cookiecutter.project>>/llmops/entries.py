"""Finds what a flow's `module:name` stands for: a function, or an object that can be called."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_ENVIRONMENT = re.compile(r"\$\{env:(\w+)\}")
Make = Callable[[set[str], Any], Any]
"""A value of `init`, and the names of the types that the argument may have, to what is passed."""


def load(reference: str, init: Mapping[str, Any], make: Make) -> Any:
    """The function, or the object; of a class, one made with the arguments `init`.

    `${env:NAME}` in an argument stands for a variable of this process.
    """
    name, _, path = reference.partition(":")
    entry = functools.reduce(getattr, path.split("."), module(name))
    plain = getattr(entry, "__original_function", entry)  # a class with @trace is a function
    if inspect.isclass(plain):
        hints = _hints(plain)
        return plain(**{k: make(hints.get(k, set()), _filled(v)) for k, v in init.items()})
    return entry


def module(name: str) -> Any:
    """Import a flow's module; one that imports its neighbours with a dot is found as a package's.

    Prompt flow imports the module by its own name, where such an import fails.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if "relative import" not in str(error):
            raise
    folder = Path.cwd()
    root = next((Path(p) for p in sys.path if p and Path(p) in folder.parents), folder.parent)
    sys.path.append(str(root))
    package = ".".join(folder.relative_to(root).parts)
    sys.modules[name] = importlib.import_module(f"{package}.{name}")
    return sys.modules[name]


def returned(function: Any) -> Any:
    """The type that a function says it returns, also where its hints are texts."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    try:
        return typing.get_type_hints(plain).get("return")
    except Exception:  # a hint may name what is imported for type checkers only
        return inspect.signature(plain).return_annotation


def _hints(kind: type) -> dict[str, set[str]]:
    """The names of the types of each argument of a class; in `A | B` and `Optional[A]` of each."""
    function = inspect.unwrap(kind.__init__)  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # as above
        hints = getattr(function, "__annotations__", {})
    return {name: _names(hint) for name, hint in hints.items()}


def _names(hint: Any) -> set[str]:
    if isinstance(hint, str):
        return set(re.findall(r"\w+", hint))
    inner = (_names(part) for part in typing.get_args(hint))
    return {getattr(hint, "__name__", "")}.union(*inner)


def _filled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item) for item in value]
    if not isinstance(value, str):
        return value
    return _ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[0]), value)
