"""The tools of prompt flow's packages: which of their inputs take a connection."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmops.files import parse_yaml


def connections(tool: str) -> dict[str, list[str]]:
    """The inputs of a tool (`package.module.function`) that take a connection, and its types.

    Empty where the tool is not one of the installed promptflow-tools.
    """
    inputs = _tools().get(tool, {}).get("inputs") or {}
    found = {}
    for name, block in inputs.items():
        types = [t for t in block.get("type") or [] if str(t).endswith("Connection")]
        if types:
            found[name] = types
    return found


@cache
def _tools() -> dict[str, Any]:
    """The tools by name, with those under a name that they once had."""
    spec = find_spec("promptflow")
    found: dict[str, Any] = {}
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place, "tools", "yamls").glob("*.yaml")):
            for name, tool in (parse_yaml(path.read_text(encoding="utf-8")) or {}).items():
                found[name] = tool
                found |= dict.fromkeys(tool.get("deprecated_tools") or [], tool)
    return found
