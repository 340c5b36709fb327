"""A prompty as a plain Python module: one request, with exactly what the file says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.ejecting import clients
from llmops.ejecting.beside import Ejected, helper_files
from llmops.ejecting.expressions import literal
from llmops.ejecting.llm import TYPES
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.values import coerced
from llmops.ejecting.writer import Module, Source
from llmops.errors import UserError
from llmops.files import read_text
from llmops.flows import front_matter, referred

_BODY = re.compile(r"\s*-{3,}[ \t]*\n.*?^-{3,}[ \t]*\n(.*)", re.DOTALL | re.MULTILINE)
_ENVIRONMENT = re.compile(r"\$\{env:(\w+)\}")
_KINDS = {"str": "string", "integer": "int", "number": "double", "float": "double"}
_KINDS |= {"boolean": "bool", "array": "list", "dict": "object"}


def write(source: Source) -> Ejected:
    """The files of a prompty as a Python flow.

    Raises:
        UserError: its model's settings cannot be read.
    """
    path, module = source.flow.path, Module()
    text = read_text(path)
    document, body = front_matter(text), _BODY.match(text)
    prompt = f"{Path(source.flow.file).stem}.jinja2"
    model = _settings(document.get("model"), path)
    _run(module, document, model, prompt, _client(module, source, model))
    head = [
        f'"""The prompt {document.get("name") or path.stem}: one row in, the answer out."""',
        "",
    ]
    imports = ["from __future__ import annotations", "", *sorted(module.imports), ""]
    made = "\n".join([*head, *imports, *(f"{part}\n\n" for part in module.parts)])
    files = {"flow.py": made, prompt: body[1] if body else "", **helper_files(module.helpers, {})}
    return Ejected(files, frozenset(files), notes=tuple(module.notes))


def _settings(block: Any, path: Path) -> dict[str, Any]:
    """The model's settings with what files beside the prompty say."""
    given = referred(block, path.parent) or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: model: expected keys and values.")
    settings = {key: referred(value, path.parent) for key, value in given.items()}
    parameters = settings.get("parameters") or {}
    return settings | {"parameters": {k: referred(v, path.parent) for k, v in parameters.items()}}


def _client(module: Module, source: Source, model: Mapping[str, Any]) -> str:
    """The expression of the client; the function that makes it comes to the module."""
    given = model.get("configuration") or {}
    named = source.connections.get(str(given.get("connection")))
    if named is not None:
        return f"{clients.function(module, named, plain(named.name).lower())}()"
    azure = str(given.get("type", "azure_openai")) in ("azure_openai", "AzureOpenAI")
    class_ = "AzureOpenAI" if azure else "OpenAI"
    for line in ("import os", f"from openai import {class_}"):
        module.use(line)
    arguments = ", ".join([*(_azure(given) if azure else _openai(given)), "max_retries=0"])
    module.add(
        f"@{module.helper('once', 'once')}",
        f"def client() -> {class_}:",
        '    """The model\'s endpoint."""',
        f"    return {class_}({arguments})",
    )
    return "client()"


def _azure(given: Mapping[str, Any]) -> list[str]:
    version = _value(given, "api_version", "AZURE_OPENAI_API_VERSION", clients.API_VERSION)
    return [
        f"azure_endpoint={_value(given, 'azure_endpoint', 'AZURE_OPENAI_ENDPOINT')}",
        f"api_key={_value(given, 'api_key', 'AZURE_OPENAI_API_KEY')}",
        f"api_version={version}",
    ]


def _openai(given: Mapping[str, Any]) -> list[str]:
    key = f"api_key={_value(given, 'api_key', 'OPENAI_API_KEY')}"
    return [f"base_url={_value(given, 'base_url', 'OPENAI_BASE_URL', None)}", key]


def _value(given: Mapping[str, Any], key: str, usual: str, default: Any = ...) -> str:
    """A setting: a variable of the environment, or what the file says."""
    found = _ENVIRONMENT.fullmatch(str(given.get(key) or ""))
    if given.get(key) and not found:
        return literal(given[key])
    variable = found[1] if found else usual
    if default is ...:
        return f'os.environ["{variable}"]'
    return f'os.environ.get("{variable}", {literal(default)})'


def _run(
    module: Module, document: Mapping[str, Any], model: Mapping[str, Any], prompt: str, client: str
) -> None:
    inputs = _inputs(document)
    parameters = {k: v for k, v in model["parameters"].items() if k != "stream"}
    if "tools" in parameters:
        parameters.setdefault("tool_choice", "auto")
    given = ", ".join([repr(prompt), *(f"{plain(name)}={plain(name)}" for name in inputs)])
    completion = model.get("api") == "completion"
    made = module.helper("chat", "render" if completion else "messages")
    first = f"{'prompt' if completion else 'messages'}={made}({given})"
    arguments = [f"model={_model(module, model)}", first]
    arguments += [f"{name}={literal(value)}" for name, value in parameters.items()]
    call = "completions" if completion else "chat.completions"
    module.use("from typing import Any")
    module.add(
        f"def run({', '.join(_signature(inputs))}) -> Any:",
        '    """One row."""',
        f"    answer = {client}.{call}.create({', '.join(arguments)})",
        *(f"    {line}" for line in _answer(module, document, model, completion)),
    )


def _model(module: Module, model: Mapping[str, Any]) -> str:
    given = model.get("configuration") or {}
    name = literal(given.get("azure_deployment") or given.get("model") or "")
    found = _ENVIRONMENT.fullmatch(str(given.get("azure_deployment") or given.get("model") or ""))
    module.use("import os")
    name = f'os.environ["{found[1]}"]' if found else name
    if connection := given.get("connection"):
        return f'os.environ.get("{prefix(str(connection))}_MODEL", {name})'
    return name


def _inputs(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The inputs with their types and defaults; what is no block is the default itself."""
    given = document.get("inputs") or {}
    if not given and isinstance(document.get("sample"), Mapping):
        return {name: {} for name in document["sample"]}
    return {k: v if isinstance(v, Mapping) else {"default": v} for k, v in given.items()}


def _signature(inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    required, others = [], []
    for name, block in inputs.items():
        word = str(block.get("type") or "")
        kind = _KINDS.get(word, word)
        hint = TYPES.get(kind, "Any")
        if "default" in block:
            others.append(f"{plain(name)}: {hint} = {literal(coerced(block['default'], kind))}")
        else:
            required.append(f"{plain(name)}: {hint}")
    return [*required, *others]


def _answer(
    module: Module, document: Mapping[str, Any], model: Mapping[str, Any], completion: bool
) -> list[str]:
    """The lines that make the outputs of the model's answer."""
    if model.get("response") == "all":
        return ["return answer"]
    if completion:
        return ["return answer.choices[0].text"]
    wanted = model["parameters"].get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        module.use("import json")
        outputs = ", ".join(f"{name!r}: found[{name!r}]" for name in document.get("outputs") or {})
        found = "found = json.loads(answer.choices[0].message.content)"
        return [found, f"return {{{outputs}}}"] if outputs else [found, "return found"]
    if "tools" in model["parameters"] or "functions" in model["parameters"]:
        return [
            'if answer.choices[0].finish_reason in ("tool_calls", "function_calls"):',
            '    return answer.model_dump()["choices"][0]["message"]',
            "return answer.choices[0].message.content",
        ]
    return ["return answer.choices[0].message.content"]
