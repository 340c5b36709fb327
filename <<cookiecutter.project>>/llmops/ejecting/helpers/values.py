"""Kinds of text that a flow's code tells apart, and what it says of its inputs."""

from __future__ import annotations

from typing import Any


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
