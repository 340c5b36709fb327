"""Prompt files to chat messages: a line `system:`, `user:` or `# user:` begins a message."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import SandboxedEnvironment
from once import once

HERE = Path(__file__).resolve().parent
ROLE = re.compile(r"^\s*#?\s*(system|user|assistant|function|tool)\s*:\s*\n", re.I | re.M)
_NAMED = r"\n*#{0,2}\s*%s\s*:\s*\n+\s*(\S+)\s*\n*#{0,2}\s*content\s*:\s*\n?(.*)"
NAME = re.compile(_NAMED % "name", re.DOTALL)
TOOL_CALL = re.compile(_NAMED % "tool_call_id", re.DOTALL)
CALLS = re.compile(r"\n*#{0,2}\s*tool_calls\s*:\s*\n+\s*(\[.*?\])", re.DOTALL)
_ENVIRONMENT = SandboxedEnvironment(trim_blocks=True, keep_trailing_newline=True)
_MARK = "\ue000"
_MARK_IN_JSON = r"\ue000"


def render(file: str, /, **values: Any) -> str:
    """A prompt file with its values filled in."""
    return _template(file).render(**values)


def messages(file: str, /, **values: Any) -> list[dict[str, Any]]:
    """The messages that a prompt file makes."""
    return split(_template(file).render(**values))


def render_text(prompt: str, /, **values: Any) -> str:
    """A prompt's text with its values filled in."""
    return _ENVIRONMENT.from_string(prompt).render(**values)


def text_messages(prompt: str, /, **values: Any) -> list[dict[str, Any]]:
    """The messages that a prompt's text makes."""
    return split(render_text(prompt, **values))


def split(text: str) -> list[dict[str, Any]]:
    """A text's messages; raises ValueError where it begins without a role."""
    before, *parts = ROLE.split(text)
    if before.strip():
        raise ValueError(f"prompt: text before the first role: {before.strip()[:60]!r}")
    return [
        _message(role.lower(), part) for role, part in zip(parts[::2], parts[1::2], strict=True)
    ]


def quote(value: Any) -> Any:
    """What a person typed: a line `system:` in it is text and begins no message."""
    if isinstance(value, str):
        return ROLE.sub(lambda role: role[0].replace(role[1], f"{role[1]}{_MARK}", 1), value)
    if isinstance(value, list):
        return [quote(item) for item in value]
    return {k: quote(v) for k, v in value.items()} if isinstance(value, dict) else value


def plain(text: Any) -> Any:
    """A rendered prompt as text, for anything but `messages`."""
    if not isinstance(text, str):
        return text
    # `tojson` of a prompt writes it in its own way.
    return text.replace(_MARK, "").replace(_MARK_IN_JSON, "")


def lines(value: Any) -> Any:
    """A value whose lists a prompt shows an item a line."""
    if isinstance(value, list):
        return _Lines(map(lines, value))
    return {k: lines(v) for k, v in value.items()} if isinstance(value, dict) else value


class _Lines(list[Any]):
    def __str__(self) -> str:
        return "\n".join(map(str, self))


def _message(role: str, text: str) -> dict[str, Any]:
    if role == "assistant" and (calls := CALLS.search(text)):
        return {"role": role, "tool_calls": ast.literal_eval(calls[1])}
    key = "tool_call_id" if role == "tool" else "name"
    named = (TOOL_CALL if role == "tool" else NAME).search(text)
    if named:
        return {"role": role, key: named[1], "content": plain(named[2].strip())}
    if role in ("function", "tool"):
        raise ValueError(
            f"prompt: a message of role {role} needs the lines '{key}:' and 'content:'"
        )
    return {"role": role, "content": plain(text.strip())}


@once
def _template(file: str) -> Template:
    return _ENVIRONMENT.from_string((HERE / file).read_text(encoding="utf-8"))
