"""Kinds of text that a flow's code tells apart, and what it says of its inputs."""

from __future__ import annotations

import json
from typing import Any


def json_or_text(value: Any) -> Any:
    """What a text says that is JSON; any other value as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


class Secret(str):
    """A text that must not be shown."""


class FilePath(str):
    """The path of a file."""


class PromptTemplate(str):
    """The text of a prompt, with places for values."""


class InputSetting(dict[str, Any]):
    """What an editor of flows was told of an input; it changes nothing of a run."""


class DynamicList(dict[str, Any]):
    """The same of an input's choices."""
