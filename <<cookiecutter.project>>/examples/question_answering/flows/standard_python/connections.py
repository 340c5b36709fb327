"""Connections out of the environment: `OpenAIConnection.from_environment("AOAI")` reads AOAI_*."""

from __future__ import annotations

import os
from typing import Any, Self


class Connection(dict[str, Any]):
    """The properties of a connection, as items and as attributes."""

    @classmethod
    def from_environment(cls, prefix: str) -> Self:
        """The connection whose variables begin with this and an underscore."""
        start = f"{prefix}_"
        found = {k: v for k, v in os.environ.items() if k.startswith(start)}
        return cls({name.removeprefix(start).lower(): text for name, text in found.items()})

    def __missing__(self, name: str) -> Any:
        # A variable's name has no capitals of its own to tell.
        plain = name.lower().replace("-", "_")
        if plain == name:
            raise KeyError(name)
        return self[plain]

    def get(self, name: str, default: Any = None) -> Any:
        """The property of that name, in capitals or not."""
        try:
            return self[name]
        except KeyError:
            return default

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class AzureOpenAIConnection(Connection):
    """Azure OpenAI: api_key, api_base, api_version."""


class OpenAIConnection(Connection):
    """OpenAI, or what speaks like it: api_key, base_url."""


class ServerlessConnection(Connection):
    """A serverless deployment: api_key, api_base."""


class CognitiveSearchConnection(Connection):
    """Azure AI Search: api_key, api_base."""


class CustomConnection(Connection):
    """Any properties; which of them are secret makes no difference here."""

    @property
    def secrets(self) -> dict[str, Any]:
        """The properties."""
        return self

    @property
    def configs(self) -> dict[str, Any]:
        """The properties."""
        return self


class CustomStrongTypeConnection(CustomConnection):
    """The base of the connections that a flow defines, whose classes may hold defaults."""

    def __getattribute__(self, name: str) -> Any:
        if dict.__contains__(self, name):
            return dict.__getitem__(self, name)
        return super().__getattribute__(name)
