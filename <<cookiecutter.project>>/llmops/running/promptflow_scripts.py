"""Flex flows, prompty files and what Python code asks of prompt flow: made to run as they are.

Prompt flow itself is imported by `promptflow_runner`, and only there. What is changed of it here
lets run what it would refuse for its form; what a flow answers stays the same.
"""

from __future__ import annotations

import functools
import inspect
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmops import entries

_GIVEN: dict[str, dict[str, Any]] = {}
"""The connections of the process's jobs."""
_MODELS: dict[str, str] = {}
"""The model of each connection that has one of its own."""
_CONFIGURATIONS = ("AzureOpenAIModelConfiguration", "OpenAIModelConfiguration")
_TYPES = {"str": "string", "integer": "int", "number": "double", "float": "double"}
_TYPES |= {"boolean": "bool", "array": "list", "dict": "object"}


@functools.cache
def executor() -> Any:
    """Prompt flow's executor of flex flows, with our way to find and make the entry.

    Its own fails with instances, classes that carry @trace, and hints like `A | B` or texts.
    """
    from promptflow._utils.execution_utils import apply_default_value_for_input
    from promptflow.executor._script_executor import ScriptExecutor

    class Script(ScriptExecutor):  # type: ignore[misc]
        def _apply_sample_init(self, init_kwargs: Any) -> Any:
            return init_kwargs

        def _parse_entry_func(self) -> Any:
            job, make = self._init_kwargs["job"], self._init_kwargs["make"]
            given = apply_default_value_for_input(self._init_sign, job["init"])
            entry = entries.load(job["entry"], given, make)
            self.returned = entries.returned(entry if inspect.isfunction(entry) else entry.__call__)
            if inspect.isfunction(entry):
                return entry
            self._initialize_aggr_function(entry)
            return entry.__call__

    return Script


class Connections:
    """The connections of a job in each of the places where prompt flow looks for one by name.

    `given` are those of the job, `models` the models that are asked for instead of those that the
    flow names.
    """

    def __init__(self, given: dict[str, Any], models: dict[str, str]) -> None:
        from promptflow.core import _prompty_utils
        from promptflow.core._connection_provider._connection_provider import ConnectionProvider
        from promptflow.core._connection_provider._dict_connection_provider import (
            DictConnectionProvider,
        )

        self.given, self._models = given, models
        self._provider = DictConnectionProvider(given)
        # A connection named inside a flex flow's model_config or a prompty ignores the dictionary.
        ConnectionProvider._instance = self._provider
        _prompty_utils.get_connection_by_name = self._by_name
        _GIVEN.update(given)
        _MODELS.update(models)

    def make(self, kinds: set[str], value: Any) -> Any:
        """A value of `init` as the class wants it: a connection or a model's configuration."""
        if isinstance(value, str) and any(kind.endswith("Connection") for kind in kinds):
            return self._get(value)
        if isinstance(value, dict) and kinds & set(_CONFIGURATIONS):
            return self._configuration(kinds, {k: v for k, v in value.items() if k != "type"})
        return value

    def _get(self, name: str) -> Any:
        if name not in self.given:
            raise ValueError(
                f"the flow uses the connection '{name}', which experiment.yaml does not name "
                f"(connections: {', '.join(self.given) or 'none'})"
            )
        return self._provider.get(name)

    def _by_name(self, name: str) -> tuple[dict[str, Any], str]:
        kind = self._get(name).TYPE
        return dict(self.given[name]["value"]), kind

    def _configuration(self, kinds: set[str], value: dict[str, Any]) -> Any:
        """The kind follows from the connection, so that a flow for Azure asks OpenAI too."""
        from promptflow.core import _model_configuration

        model = value.get("azure_deployment") or value.get("model")
        if name := value.get("connection"):
            connection, model = self._get(name), self._models.get(name) or model
            azure = self.given[name]["type"] == "AzureOpenAIConnection"
            kind = getattr(_model_configuration, _CONFIGURATIONS[not azure])
            return kind.from_connection(connection, model)
        azure = _CONFIGURATIONS[0] in kinds and "model" not in value
        kind = getattr(_model_configuration, _CONFIGURATIONS[not azure])
        return kind(**value)


def prepare_prompty() -> None:
    """Prompty: no tries of its own either, and one client a connection instead of one a row."""
    from promptflow.core import _flow

    for kind in (_flow.Prompty, _flow.AsyncPrompty):
        kind.__call__ = inspect.unwrap(kind.__call__)
    parse, begin = _flow.Prompty._parse_prompty, _flow.Prompty.__init__

    def parsed(path: Any) -> tuple[dict[str, Any], str]:
        configs, template = parse(path)
        return _complete(configs, Path(path).parent), template

    def begun(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        configuration = self._model.configuration
        named = configuration if isinstance(configuration, dict) else vars(configuration)
        # The connection's own model goes first.
        self._model._model = _MODELS.get(str(named.get("connection"))) or self._model._model

    _flow.Prompty._parse_prompty = staticmethod(parsed)
    _flow.Prompty.__init__ = begun
    make = _flow.get_open_ai_client_by_connection
    resolve = _flow.convert_model_configuration_to_connection
    shared = functools.lru_cache(maxsize=32)(make)
    known = functools.lru_cache(maxsize=32)(lambda text: resolve(json.loads(text)))

    def client(connection: Any, is_async: bool = False) -> Any:
        # An async client belongs to an event loop, and each row has a loop of its own.
        return make(connection, is_async=True) if is_async else shared(connection)

    def connection(configuration: Any) -> Any:
        plain = isinstance(configuration, dict)
        given = configuration if plain else asdict(configuration) | {"type": configuration._type}
        if isinstance(given.get("connection"), str | None):
            return known(json.dumps(_with_key(given)))
        return resolve(configuration)

    _flow.get_open_ai_client_by_connection = client
    _flow.convert_model_configuration_to_connection = connection


def _with_key(configuration: dict[str, Any]) -> dict[str, Any]:
    """An address without a key is that of one of the run's connections, and takes its key.

    Else it would be taken as a wish to sign in, which the answers of a recording need not.
    """
    from promptflow.core._prompty_utils import parse_environment_variable

    address = str(parse_environment_variable(configuration.get("azure_endpoint")) or "")
    if not address or configuration.get("api_key"):
        return configuration
    keys = {
        str(link["value"].get("api_base", "")).rstrip("/"): link["value"].get("api_key")
        for link in _GIVEN.values()
    }
    key = keys.get(address.rstrip("/"))
    return {**configuration, "api_key": key} if key else configuration


def _complete(configs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A prompty's settings with what it may leave out, so that it runs as its text means it."""
    from promptflow.contracts.tool import ValueType
    from promptflow.core._prompty_utils import resolve_references

    model = {"configuration": {}, "parameters": {}, **(configs.get("model") or {})}
    configs, inputs = {**configs, "model": model}, configs.get("inputs") or {}
    sample = resolve_references(configs.get("sample"), base_path=folder)
    if isinstance(sample, str):  # a file beside the prompty, wherever the process works
        path = folder / sample.removeprefix("file:")
        sample = json.loads(path.read_text("utf-8-sig")) if path.is_file() else None
        configs = {**configs, "sample": sample}
    if not inputs and isinstance(sample, dict):
        inputs = {name: {"type": ValueType.from_value(v).value} for name, v in sample.items()}
    if inputs:
        configs = {**configs, "inputs": {k: _input(v) for k, v in inputs.items()}}
    return configs


def _input(given: Any) -> dict[str, Any]:
    """An input's settings in prompt flow's words; what is none is the input's default."""
    from promptflow.contracts.tool import ValueType

    if not isinstance(given, dict):
        return {"type": ValueType.from_value(given).value, "default": given}
    kind = given.get("type") or ValueType.from_value(given.get("default", "")).value
    kind = _TYPES.get(str(kind).lower(), str(kind).lower())
    return {**given, "type": kind if kind in {t.value for t in ValueType} else "object"}
