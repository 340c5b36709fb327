"""Prompts in prompty files: a block of settings between lines of ---, then the messages."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI
from ruamel.yaml import YAML

from llmops.ejecting.helpers.chat import render_text, text_messages
from llmops.ejecting.helpers.once import once

API_VERSION = "2024-02-01"
_PARTS = re.compile(r"-{3,}\n(.*)-{3,}\n(.*)", re.DOTALL)
_ELSEWHERE = re.compile(r"\$\{(env|file):(.*)\}")


@dataclass
class AzureOpenAIModelConfiguration:
    """A deployment of Azure OpenAI; `connection` names the variables that lead to it."""

    azure_deployment: str
    azure_endpoint: str | None = None
    api_version: str | None = None
    api_key: str | None = None
    connection: str | None = None
    type: ClassVar[str] = "azure_openai"


@dataclass
class OpenAIModelConfiguration:
    """A model of OpenAI, or of what speaks like it; `connection` as above."""

    model: str
    base_url: str | None = None
    api_key: str | None = None
    organization: str | None = None
    connection: str | None = None
    type: ClassVar[str] = "openai"


class Prompty:
    """A prompt that asks its model; called with the prompt's inputs by name."""

    def __init__(self, path: Path, model: dict[str, Any] | None = None) -> None:
        found = _PARTS.search(path.read_text(encoding="utf-8-sig"))
        if found is None:
            raise ValueError(f"{path}: expected settings between two lines of ---")
        self._settings = _resolved(YAML(typ="safe").load(found[1]) or {}, path.parent)
        self._settings["model"] = _merged(self._settings.get("model") or {}, model or {})
        self._text = found[2]

    @classmethod
    def load(cls, source: str | Path, model: dict[str, Any] | None = None) -> Self:
        """The prompt in a file; `model` goes before what the file says of it."""
        return cls(Path(source), model)

    def __call__(self, **inputs: Any) -> Any:
        """The model's answer."""
        client = _client(json.dumps(self._configuration, sort_keys=True))
        return self._read(self._asked(client).create(**self._request(inputs)))

    @property
    def _completes(self) -> bool:
        return bool(self._settings["model"].get("api") == "completion")

    def _asked(self, client: Any) -> Any:
        return client.completions if self._completes else client.chat.completions

    @property
    def _configuration(self) -> dict[str, Any]:
        given = self._settings["model"].get("configuration") or {}
        plain = given if isinstance(given, dict) else asdict(given) | {"type": given.type}
        return {k: _variable(v) for k, v in plain.items() if v is not None}

    def _request(self, inputs: dict[str, Any]) -> dict[str, Any]:
        configuration, known = self._configuration, self._settings.get("inputs") or {}
        defaults = {k: v["default"] for k, v in known.items() if "default" in (v or {})}
        parameters = self._settings["model"].get("parameters") or {}
        model = configuration.get("azure_deployment") or configuration.get("model")
        named = str(configuration.get("connection", ""))
        own = os.environ.get(f"{_prefix(named)}_MODEL")
        key: str = "prompt" if self._completes else "messages"
        fill: Any = render_text if self._completes else text_messages
        sent = {
            **parameters,
            "model": own or model,
            key: fill(self._text, **{**defaults, **inputs}),
        }
        return sent | ({"tool_choice": sent.get("tool_choice", "auto")} if "tools" in sent else {})

    def _read(self, answer: Any) -> Any:
        if self._settings["model"].get("response") == "all":
            return answer
        if self._completes:
            return answer.choices[0].text
        message = answer.choices[0].message
        if answer.choices[0].finish_reason in ("tool_calls", "function_calls"):
            return answer.model_dump()["choices"][0]["message"]
        wanted = (self._settings["model"].get("parameters") or {}).get("response_format") or {}
        if wanted.get("type") != "json_object":
            return message.content
        found = json.loads(message.content)
        outputs = self._settings.get("outputs") or {}
        return {name: found[name] for name in outputs} if outputs else found


class AsyncPrompty(Prompty):
    """The same, awaited."""

    async def __call__(self, **inputs: Any) -> Any:
        """The model's answer."""
        # An asynchronous client belongs to an event loop: not kept.
        client = _made(self._configuration, asynchronous=True)
        return self._read(await self._asked(client).create(**self._request(inputs)))


@once
def _client(configuration: str) -> Any:
    return _made(json.loads(configuration), asynchronous=False)


def _made(configuration: dict[str, Any], *, asynchronous: bool) -> Any:
    given = _named(configuration)
    key = given.get("api_key")
    if given.get("type") == "azure_openai" or "azure_endpoint" in given:
        kind: Any = AsyncAzureOpenAI if asynchronous else AzureOpenAI
        return kind(
            azure_endpoint=given.get("azure_endpoint") or os.environ["AZURE_OPENAI_ENDPOINT"],
            api_version=given.get("api_version") or API_VERSION,
            api_key=key or os.environ["AZURE_OPENAI_API_KEY"],
            max_retries=0,
        )
    kind = AsyncOpenAI if asynchronous else OpenAI
    return kind(base_url=given.get("base_url"), api_key=key, max_retries=0)


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """The properties of the connection that a configuration names; else the configuration."""
    if not (name := given.get("connection")):
        return given
    start = f"{_prefix(name)}_"
    found = {k.removeprefix(start).lower(): v for k, v in os.environ.items() if k.startswith(start)}
    if "base_url" in found:
        return found
    return {**found, "azure_endpoint": found.get("api_base"), "type": "azure_openai"}


def _prefix(connection: str) -> str:
    return re.sub(r"\W", "_", connection).upper()


def _resolved(value: Any, folder: Path) -> Any:
    """Settings with what `${env:NAME}` and `${file:name}` stand for."""
    if isinstance(value, dict):
        return {k: _resolved(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(item, folder) for item in value]
    found = _ELSEWHERE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    if found[1] == "env":
        return os.environ.get(found[2], value)
    return YAML(typ="safe").load((folder / found[2]).read_text(encoding="utf-8-sig"))


def _variable(value: Any) -> Any:
    found = re.fullmatch(r"\$\{env:(.*)\}", value) if isinstance(value, str) else None
    return os.environ.get(found[1], value) if found else value


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for name, value in second.items():
        there = first.get(name)
        if isinstance(there, dict) and isinstance(value, dict):
            value = _merged(there, value)
        merged[name] = value
    return merged
