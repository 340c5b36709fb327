"""A prompty as a plain Python module: one request, with exactly what the file says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.ejecting import clients
from llmops.ejecting.beside import Ejected, helper_files
from llmops.ejecting.expressions import literal
from llmops.ejecting.llm import TYPES, argument
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.python import exceptions, imports
from llmops.ejecting.values import TEXT_OR_JSON, coerced, conversion
from llmops.ejecting.writer import Module, Source, among_others
from llmops.errors import UserError
from llmops.files import read_text
from llmops.flows import front_matter, referred

_BODY = re.compile(r"\s*-{3,}[ \t]*\n.*?^-{3,}[ \t]*\n(.*)", re.DOTALL | re.MULTILINE)
_IMAGE = re.compile(r"!\[\s*image\s*\]\(\{\{(\s*[^\s{}]+\s*)\}\}\)")
_NAMED = re.compile(r"data:image/.*;(path|base64|url):")
_WITHIN = {"messages", "render", "show", "load_text", "json_or_text", "json", "os"}
_WITHIN |= {"isinstance", "str", "int", "float", "bool", "list"}
"""What `run` may use itself, so that no parameter of it can have the name."""
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
    model = _settings(document.get("model"), path)
    document = {**document, "file": f"{path.stem}.jinja2"}
    _run(module, source.rows, document, model, _client(module, source, model))
    head = [
        f'"""The prompt {document.get("name") or path.stem}: one row in, the answer out."""',
        "",
    ]
    head = [*exceptions(module.parts), *head, *imports(module.imports, {})]
    made = "\n".join([*head, *(f"{part}\n\n" for part in module.parts)])
    # An image is shown on a line of its own.
    shown = _IMAGE.sub(r"\n{{\1}}\n", body[1] if body else "")
    files = {"flow.py": made, f"{path.stem}.jinja2": shown, **helper_files(module.helpers, {})}
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
    module: Module,
    rows: Sequence[Mapping[str, Any]],
    document: Mapping[str, Any],
    model: Mapping[str, Any],
    client: str,
) -> None:
    inputs = _inputs(document, client)
    parameters = {k: v for k, v in model["parameters"].items() if k != "stream"}
    if "tools" in parameters:
        parameters.setdefault("tool_choice", "auto")
    first = [line for i in inputs for line in _prepare(module, i, rows)]
    given = ", ".join([repr(document["file"]), *(argument(i.name, i.variable) for i in inputs)])
    completion = model.get("api") == "completion"
    made = f"{module.helper('chat', 'render' if completion else 'messages')}({given})"
    if images := [i.variable for i in inputs if _is_image(i, rows)]:
        made = f"{module.helper('images', 'show')}({made}, {', '.join(images)})"
    arguments = [f"model={_model(module, model)}"]
    arguments += [f"{'prompt' if completion else 'messages'}={made}"]
    arguments += [f"{name}={literal(value)}" for name, value in parameters.items()]
    call = "completions" if completion else "chat.completions"
    _notes(module, inputs)
    module.use("from typing import Any")
    module.add(
        f"def run({', '.join(_signature(inputs))}) -> Any:",
        '    """One row."""',
        *(f"    {line}" for line in first),
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


@dataclass(frozen=True)
class _Input:
    """An input: prompt flow's name of its type, and its default where it is not `required`.

    `variable` is what `run` calls it; one that is no parameter comes among the others.
    """

    name: str
    type: str
    required: bool
    default: Any
    variable: str

    @property
    def is_parameter(self) -> bool:
        """Whether `run` has a parameter of that name."""
        return self.variable == self.name


def _inputs(document: Mapping[str, Any], client: str) -> list[_Input]:
    """The inputs with their types and defaults; what is no block is the default itself."""
    given = document.get("inputs") or {}
    if not given and isinstance(document.get("sample"), Mapping):
        given = {name: {} for name in document["sample"]}
    blocks = {k: v if isinstance(v, Mapping) else {"default": v} for k, v in given.items()}
    return [_input(name, block, client) for name, block in blocks.items()]


def _input(name: str, block: Mapping[str, Any], client: str) -> _Input:
    word = str(block.get("type") or "")
    kind = _KINDS.get(word, word)
    variable = f"{name}_" if name in {*_WITHIN, client.removesuffix("()")} else plain(name)
    default = coerced(block.get("default"), kind) if "default" in block else None
    return _Input(name, kind, "default" not in block, default, variable)


def _signature(inputs: Sequence[_Input]) -> list[str]:
    taken = sorted((i for i in inputs if i.is_parameter), key=lambda i: not i.required)
    others = ["**others: Any"] if len(taken) < len(inputs) else []
    return [*map(_parameter, taken), *others]


def _parameter(given: _Input) -> str:
    hint = TYPES.get(given.type, "Any")
    if given.required:
        return f"{given.name}: {hint}"
    if isinstance(given.default, list | dict):
        return f"{given.name}: {hint}{'' if hint == 'Any' else ' | None'} = None"
    return f"{given.name}: {hint} = {literal(given.default)}"


def _prepare(module: Module, given: _Input, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines that make an input what the prompt takes."""
    name, variable = given.name, given.variable
    if not given.is_parameter:
        usual = f".get({name!r}, {literal(given.default)})"
        yield f"{variable} = others{f'[{name!r}]' if given.required else usual}"
    elif isinstance(given.default, list | dict):
        yield f"if {variable} is None:"
        yield f"    {variable} = {literal(given.default)}"
    known = [row[name] for row in rows if name in row]
    if change := conversion(variable, given.type, known):
        if "json." in change:
            module.use("import json")
        if change == TEXT_OR_JSON.format(variable):
            module.helper("values", "json_or_text")
        yield f"{variable} = {change}"
    if _is_image(given, rows):
        yield f"{variable} = {module.helper('images', 'load_text')}({variable})"


def _is_image(given: _Input, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an input names images, as `data:image/png;path: cat.png` does."""
    known = [given.default, *(row.get(given.name) for row in rows)]
    return given.type == "image" or any(_NAMED.match(v) for v in known if isinstance(v, str))


def _notes(module: Module, inputs: Sequence[_Input]) -> None:
    for given in inputs:
        if not given.is_parameter:
            module.notes.append(among_others(given.name))


def _answer(
    module: Module, document: Mapping[str, Any], model: Mapping[str, Any], completion: bool
) -> list[str]:
    """The lines that make the outputs of the model's answer."""
    if model.get("response") == "all":
        return ['return {"output": answer}']
    if completion:
        return ["return answer.choices[0].text"]
    wanted = model["parameters"].get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_object":
        module.use("import json")
        outputs = ", ".join(f"{name!r}: found[{name!r}]" for name in document.get("outputs") or {})
        found = "json.loads(answer.choices[0].message.content)"
        return [f"found = {found}", f"return {{{outputs}}}"] if outputs else [f"return {found}"]
    if "tools" in model["parameters"] or "functions" in model["parameters"]:
        return [
            'if answer.choices[0].finish_reason in ("tool_calls", "function_calls"):',
            '    return answer.model_dump()["choices"][0]["message"]',
            "return answer.choices[0].message.content",
        ]
    return ["return answer.choices[0].message.content"]
